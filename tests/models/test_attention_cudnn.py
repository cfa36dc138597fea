"""Attention by cuDNN: on GPUs its kernel, elsewhere JAX's own computation of the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.models import attention_cudnn
from prefix_jax.models.attention import KVSource, attend
from prefix_jax.models.masks import causal_interval, causal_mask, mask_pair

ROWS = {
    "whole": [[1] * 13, [1] * 13],
    "padded": [[1] * 13, [1] * 9 + [0] * 4],
    "packed": [[1] * 5 + [2] * 8, [1] * 3 + [2] * 3 + [3] * 5 + [0] * 2],
}
ON_GPU = jax.default_backend() == "gpu"


@pytest.fixture(autouse=True)
def implementation(monkeypatch):
    if not ON_GPU:
        monkeypatch.setattr(attention_cudnn, "_IMPLEMENTATION", "xla")


@pytest.mark.parametrize("slots", ["none", "prefix", "biased"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("rows", ROWS)
def test_it_is_plain_attention_forwards_and_back(rows, window, slots):
    segments = jnp.asarray(ROWS[rows], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 7)
    shapes = [(2, 2, 3, 13, 16), (2, 2, 13, 16), (2, 2, 13, 16), (2, 5, 16), (2, 5, 16), (2, 1, 1, 5)]
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys[:6], shapes, strict=True)]
    arrays[5] = arrays[5].at[0, 0, 0, 2].set(-jnp.inf)
    # Queries without a segment have no defined output.
    weight = jax.random.normal(keys[6], shapes[0]) * (segments > 0)[:, None, None, :, None]

    def loss(mask, dtype, arrays):
        query, key, value, prefix_key, prefix_value, bias = (x.astype(jnp.bfloat16).astype(jnp.float32) for x in arrays)
        prefix = KVSource(prefix_key, prefix_value, arrays[5] if slots == "biased" else None)
        sources = (() if slots == "none" else (prefix,)) + (KVSource(key, value, None, mask),)
        return (attend(query, sources, 0.3, dtype) * weight).sum()

    plain = mask_pair(causal_mask(jnp.arange(13), segments, window))
    kernel = causal_interval(segments, window, None, "cudnn")
    kernel = kernel.replace(causal=rows != "packed" and window is None)
    expected, expected_gradients = jax.value_and_grad(loss, 2)(plain, jnp.float32, arrays)
    found, gradients = jax.value_and_grad(loss, 2)(kernel, jnp.bfloat16, arrays)
    assert float(found) == pytest.approx(float(expected), abs=0.02 * np.sqrt(weight.size))
    for one, other in zip(gradients, expected_gradients, strict=True):
        error = jnp.linalg.norm(jnp.where(jnp.isfinite(other), one - other, 0).ravel())
        assert float(error) <= 0.02 * float(jnp.linalg.norm(other.ravel())) + 1e-6


def test_wide_heads_and_float32_are_left_to_plain_attention():
    query = jnp.zeros((1, 1, 1, 4, 128))
    assert attention_cudnn.fits(query, False, jnp.bfloat16) and not attention_cudnn.fits(query, True, jnp.bfloat16)
    assert not attention_cudnn.fits(query, False, jnp.float32)
