"""Early stopping, from a whole run on a tiny model."""

import dataclasses
import json

import jax
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


def poisoned(tree, path: str, value: float):
    """Returns the tree with one number of one of its arrays replaced."""
    here, _, rest = path.partition("/")
    if rest:
        return {**tree, here: poisoned(tree[here], rest, value)}
    return {**tree, here: tree[here].at[(0,) * tree[here].ndim].set(value)}


def spoilt(config, workdir, path: str, value: float):
    """Returns the trainer of a short run with one number of the frozen weights replaced."""
    config.training.update(steps=2, log_every=1, evaluate_every=0)
    trainer = prepare(session.open_session(config), workdir, [])
    base = poisoned(trainer.session.base, path, value)
    return dataclasses.replace(trainer, session=dataclasses.replace(trainer.session, base=base))


def from_start(trainer, init):
    (member,) = trainer.members
    method = member.method._replace(init=init)
    return dataclasses.replace(trainer, members=(dataclasses.replace(member, method=method),))


def test_frozen_weights_that_are_not_finite_are_named(config, tmp_path):
    trainer = spoilt(config, tmp_path / "run", "params/final_norm/scale", np.inf)
    said = r"at step 1; in the frozen weights of .* 1 of the 32 numbers of params/final_norm/scale are not finite"
    with pytest.raises(UserError, match=said):
        loop.train(trainer)


def test_a_start_that_is_not_finite_is_named(config, tmp_path):
    trainer = spoilt(config, tmp_path / "run", "params/final_norm/scale", 1.0)
    init = trainer.members[0].method.init
    trainer = from_start(trainer, lambda key, base: jax.tree.map(lambda leaf: leaf * np.nan, init(key, base)))
    with pytest.raises(UserError, match="the loss is nan at step 1; what is trained begins so: .* numbers of decoder/"):
        loop.train(trainer)


def test_data_on_which_the_model_overflows_are_named(config, tmp_path):
    config.training.accumulation = 2
    trainer = spoilt(config, tmp_path / "run", "params/final_norm/scale", 3e38)  # finite, and its logits are not
    start = trainer.members[0].method.init(jax.random.key(0), trainer.session.base)
    trainer = from_start(trainer, lambda key, base: jax.tree.map(jax.numpy.copy, start))
    with pytest.raises(UserError, match=r"the batch of step 1 \(training records \d+, .* overflows"):
        loop.train(trainer)
