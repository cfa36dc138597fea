"""Attention by cuDNN: on GPUs its kernel, elsewhere JAX's own computation of the same function."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.data.batching import Batch
from prefix_jax.models import attention_cudnn, build, from_hf
from prefix_jax.models.attention import KVSource, attend
from prefix_jax.models.families.rotary_decoder import sizes
from prefix_jax.models.masks import causal_interval, causal_mask, mask_pair, segment_positions
from prefix_jax.models.prefix import Prefix, PrefixKV
from prefix_jax.training import session
from prefix_jax.training.loss import loss_sums

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


@pytest.mark.parametrize("window, slots", [(None, "none"), (None, "biased"), (4, "prefix")])
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


@pytest.mark.parametrize("alone", [True, False])
def test_a_model_gives_the_losses_and_gradients_of_plain_attention(alone):
    """Packed and padded rows; where each row holds one record, the kernel has no mask."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 90, (2, 12)).astype(np.int32)
    segments = np.asarray([[1] * 12, [1] * 9 + [0] * 3] if alone else [[1] * 5 + [2] * 7, [1] * 9 + [0] * 3], np.int32)
    positions = np.asarray(segment_positions(jnp.asarray(segments)), np.int32)
    ends = np.asarray([[3, 9, 10], [6, 7, 11]], np.int32)
    batch = Batch(
        tokens, positions, segments, ends, tokens[:, :3], np.asarray([[1, 1, 1], [1, 1, 0]], np.float32), alone=alone
    )
    model_config = from_hf(sizes("llama", 2, 32, 4, 2, 64, 90))
    plain = build(model_config, activations="bfloat16")
    base = plain.init(jax.random.key(0), batch.tokens)
    shape = (2, 2, 5, 8)
    prefix = Prefix(PrefixKV(*(jax.random.normal(jax.random.key(k), shape) for k in (1, 2))), position_offset=5)

    def loss(model, prefix):
        low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)
        total, weight = loss_sums(model, low, prefix, batch)
        return total / weight

    expected, expected_gradient = jax.value_and_grad(loss, 1, allow_int=True)(plain, prefix)
    found, gradient = jax.value_and_grad(loss, 1, allow_int=True)(plain.clone(kernel="cudnn"), prefix)
    assert float(found) == pytest.approx(float(expected), rel=0.01)
    for name in ("key", "value"):
        one, other = (getattr(each.decoder, name) for each in (gradient, expected_gradient))
        assert float(jnp.linalg.norm(one - other)) < 0.05 * float(jnp.linalg.norm(other))


@pytest.mark.parametrize(
    "platform, capability, has",
    [("gpu", "9.0", True), ("gpu", "7.5", False), ("gpu", "gfx942", False), ("cpu", "", False)],
)
def test_which_devices_have_the_kernel(platform, capability, has):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    assert session.has_cudnn_attention(device) == has
