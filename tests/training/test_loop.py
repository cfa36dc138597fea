"""Early stopping, from a whole run on a tiny model."""

import json

import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.training import loop, session
from prefix_jax.training.step import make_evaluation
from prefix_jax.training.trainer import prepare
from tests import tiny


@pytest.fixture
def config(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = tiny.configuration(tiny_models["llama"], tmp_path)
    config.training.update(
        steps=60, batch=4, log_every=5, evaluate_every=2, evaluate_records=4, checkpoint_every=50, tensorboard=False,
    )  # fmt: skip
    return config


def validation_losses(workdir) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}


def test_early_stopping_ends_the_run_and_keeps_the_best_tree(config, tmp_path):
    config.optimizer.update(learning_rate=3.0, schedule="constant", warmup_steps=8)  # soon worse than it was
    config.training.patience = 3
    trainer = prepare(session.open_session(config), tmp_path / "run", [])
    (outcome,) = loop.train(trainer)
    losses = validation_losses(tmp_path / "run")
    best_step = min(losses, key=losses.__getitem__)
    assert outcome.finished and outcome.step == best_step + 3 * 2 < config.training.steps
    evaluate = make_evaluation(trainer.session.model, trainer.method)
    kept = loop.validation_loss(evaluate, trainer.session, outcome.trainable, trainer.validation)
    np.testing.assert_allclose(kept, losses[best_step], rtol=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(config, tmp_path):
    config.optimizer.update(learning_rate=1e30, clip=0.0)
    trainer = prepare(session.open_session(config), tmp_path / "run", [])
    with pytest.raises(UserError, match=r"the loss is nan at step \d+; lower --config.optimizer.learning_rate"):
        loop.train(trainer)
