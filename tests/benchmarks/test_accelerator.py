"""The accelerator's benchmark, on whatever device the tests have."""

import json

import jax
import pytest

from benchmarks import accelerator
from benchmarks.growth import synthetic
from prefix_jax.models.families import gpt2
from prefix_jax.planning import shapes


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(shapes.KNOWN, "small", gpt2.sizes(2, 64, 4, 512))
    monkeypatch.setattr(accelerator, "spec_of", lambda name: shapes.from_hf(shapes.KNOWN[name]))
    return shapes.from_hf(shapes.KNOWN["small"])


@pytest.mark.parametrize("attention", ["plain", pytest.param("fused", marks=pytest.mark.nightly)])
def test_flops_are_those_counted_by_hand(small, attention):
    """Forwards and to the input through frozen products, attention seven products, the prefix's MLP three a matrix.

    Of a kernel, whose blocks are larger than these rows, what is wanted counts, and not what it does.
    """
    rows, columns, targets, length, e, layers = 2, 64, 16, 10, 64, 2
    batch = synthetic(rows, columns, 512, targets)
    found = accelerator.ours(small, "float32", length, batch, 1, attention)["flops"]
    tokens = rows * columns
    frozen = layers * 2 * (2 * tokens * 12 * e * e)
    attention = layers * 7 * 2 * tokens * (columns + length) * e
    vocabulary = 2 * 2 * rows * targets * e * 512
    mlp = 3 * 2 * length * 512 * (2 * layers * e) + 3 * 2 * length * e * 512
    assert found == pytest.approx(frozen + attention + vocabulary + mlp, rel=0.001)


def test_a_result_is_written_for_the_device(small, monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.run.RESULTS", tmp_path)
    words = ["--model", "small", "--rows", "2", "--columns", "64", "--targets", "16", "--steps", "1", "--square", "64"]
    accelerator.main(words)
    (path,) = tmp_path.glob("accelerator_small_*.json")
    found = json.loads(path.read_text())
    assert found["device"] == jax.devices()[0].device_kind and found["ours"]["seconds"] > 0
    assert found["share_of_a_large_product"] > 0


def test_synthetic_rows_predict_their_last_tokens():
    batch = synthetic(2, 16, 100, 4)
    assert batch.target_positions.tolist() == [[11, 12, 13, 14]] * 2
    assert (batch.targets == batch.tokens[:, 12:]).all()
