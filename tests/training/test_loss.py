"""The loss and its batches against values computed by hand and by torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.data.batching import Batch
from prefix_jax.models import build
from prefix_jax.models.families.llama import LlamaConfig
from prefix_jax.models.prefix import Prefix, PrefixKV
from prefix_jax.training import loss
from prefix_jax.training.loss import loss_sums, record_count, token_losses

SPEC = LlamaConfig(
    vocab_size=23, layers=2, d_model=16, heads=4, kv_heads=2, head_dim=4, d_ff=24, norm_epsilon=1e-5,
    tie_embeddings=True, eos_id=1, bos_id=2, pad_id=0, max_positions=64, rope_base=1e4, rope_scaling=None,
    qkv_bias=False, sliding_window=None,
)  # fmt: skip


@functools.cache
def random_base(model_config):
    """Random variables of a model."""
    tokens = jnp.zeros((1, 4), jnp.int32)
    extra = {"encoder_tokens": tokens} if model_config.is_encoder_decoder else {}
    return jax.jit(build(model_config).init)(jax.random.key(0), tokens, **extra)


@pytest.fixture(scope="module")
def tiny():
    return build(SPEC), random_base(SPEC)


def one_row(source: list[int], target: list[int], length: int, targets: int) -> Batch:
    ids = source + target[:-1]
    pad = length - len(ids)
    fill = targets - len(target)
    first = len(source) - 1
    return Batch(
        tokens=np.array([ids + [0] * pad], np.int32),
        positions=np.array([[*range(len(ids))] + [0] * pad], np.int32),
        segment_ids=np.array([[1] * len(ids) + [0] * pad], np.int32),
        target_positions=np.array([[*range(first, first + len(target))] + [0] * fill], np.int32),
        targets=np.array([target + [0] * fill], np.int32),
        weights=np.array([[1.0] * len(target) + [0.0] * fill], np.float32),
    )


def test_trap_19_the_loss_is_shifted_once(tiny):
    """Token t + 1 of the text is scored by the logits at token t: computed here by hand from the plain logits."""
    model, base = tiny
    source, target = [3, 4, 5], [6, 7, 1]
    total, weight = loss_sums(model, base, None, one_row(source, target, 12, 5))
    logits = model.apply(base, jnp.array([source + target]))[0]
    by_hand = sum(
        float(jnp.log(jnp.exp(logits[at]).sum()) - logits[at, token])
        for at, token in zip((2, 3, 4), target, strict=True)
    )
    assert weight == 3
    np.testing.assert_allclose(total, by_hand, rtol=1e-5)


def test_trap_20_padding_targets_give_no_nan(tiny):
    model, base = tiny
    batch = one_row([3, 4, 5], [6, 7, 1], 12, 9)
    total, gradient = jax.value_and_grad(lambda b: loss_sums(model, b, None, batch)[0])(base)
    assert np.isfinite(total) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_token_losses_equal_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(7, 31)).astype(np.float32) * 5, rng.integers(0, 31, 7)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(targets), reduction="none")
    np.testing.assert_allclose(token_losses(jnp.array(logits), jnp.array(targets)), theirs, rtol=1e-5, atol=1e-6)


def test_packed_and_separate_rows_have_one_loss(tiny):
    model, base = tiny
    first, second = one_row([3, 4, 5], [6, 7, 1], 5, 3), one_row([8, 9], [10, 11, 12, 1], 5, 4)
    packed = Batch(
        tokens=np.concatenate([first.tokens, second.tokens], 1),
        positions=np.concatenate([first.positions, second.positions], 1),
        segment_ids=np.concatenate([first.segment_ids, 2 * second.segment_ids], 1),
        target_positions=np.concatenate([first.target_positions, second.target_positions + 5], 1),
        targets=np.concatenate([first.targets, second.targets], 1),
        weights=np.concatenate([first.weights, second.weights], 1),
    )
    apart = [loss_sums(model, base, None, part) for part in (first, second)]
    together = loss_sums(model, base, None, packed)
    np.testing.assert_allclose(together[0], apart[0][0] + apart[1][0], rtol=1e-5)
    assert together[1] == 7
    assert record_count(packed) == 2


@pytest.mark.parametrize("most", [23 * 3, 23 * 2, 1])
def test_logits_in_parts_give_the_same_losses_and_gradients(tiny, monkeypatch, most):
    model, base = tiny
    batch = jax.tree.map(lambda *x: np.concatenate(x), *(one_row([3, 4, 5], [6, 7, k], 12, 5) for k in (1, 8)))

    def run(most):
        monkeypatch.setattr(loss, "MOST_LOGITS", most)
        return jax.value_and_grad(lambda base: loss_sums(model, base, None, batch)[0])(base)

    expected, found = run(10**9), run(most)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), expected, found)


def test_logits_of_a_large_vocabulary_do_not_exist_at_once(tiny, monkeypatch):
    model, base = tiny
    batch = jax.tree.map(lambda *x: np.concatenate(x), *[one_row([3], [4] * 40, 48, 40)] * 8)
    slots = jnp.ones((2, 2, 3, 4))
    prefix = Prefix(PrefixKV(slots, slots), position_offset=0.0)

    def program() -> str:
        return str(jax.make_jaxpr(jax.grad(lambda prefix: loss_sums(model, base, prefix, batch)[0]))(prefix))

    whole = program()
    monkeypatch.setattr(loss, "MOST_LOGITS", 8 * 10 * 23)
    parts = program()
    assert "f32[8,40,23]" in whole and "f32[8,40,23]" not in parts and "f32[8,10,23]" in parts
