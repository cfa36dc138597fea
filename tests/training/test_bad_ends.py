"""A run that ends in an error keeps what was being saved, and resumes to the same end."""

import pytest

from prefix_jax.errors import UserError
from prefix_jax.training import loop, session
from prefix_jax.training.trainer import prepare
from prefix_jax.training.writers import MetricWriter
from tests import tiny


@pytest.fixture
def config(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    config.training.update(steps=4, batch=4, log_every=1, evaluate_every=0, checkpoint_every=1)
    return config


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, OSError])
def test_a_run_that_ends_in_an_error_keeps_the_checkpoint_that_was_being_saved(error, config, tmp_path, monkeypatch):
    write = MetricWriter.write
    closed = []

    def failing(writer, step, values):
        if int(step) == 3:
            raise error("the third step")
        write(writer, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(MetricWriter, "write", failing)
        patch.setattr(MetricWriter, "close", lambda writer: closed.append(writer))
        with pytest.raises(error, match="the third step"):
            loop.train(prepare(session.open_session(config), tmp_path / "run", []))
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"1", "2"} and len(closed) == 1
    (outcome,) = loop.train(prepare(session.open_session(config), tmp_path / "run", []))
    assert outcome.finished and outcome.step == 4
