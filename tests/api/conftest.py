"""A tiny model, pairs, and a prefix tuned on them, shared by the tests of the public names."""

import pytest

import prefix_jax as pj
from tests import tiny

PAIRS = [(row["source"], row["target"]) for row in tiny.rows(24)]
QUICK = {"training.batch": 4, "training.log_every": 1, "decoding.beams": 2, "decoding.max_length": 8}


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    pytest.importorskip("torch")
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny-gpt2", "gpt2")


@pytest.fixture(scope="session")
def lm(model_dir):
    return pj.load_model(model_dir)


@pytest.fixture(scope="session")
def tuned(lm):
    return pj.tune(lm, PAIRS[:16], pj.Prefix(length=3, hidden=16), steps=4, validation=PAIRS[16:], options=QUICK)
