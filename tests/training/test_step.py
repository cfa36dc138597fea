"""The training step: what moves, what stays, and how parts of a batch add up."""

import jax
import numpy as np
import pytest

from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.data.batching import Layout, PackedBatches, split
from prefix_jax.data.tokens import Ragged, TokenisedSet
from prefix_jax.models import build
from prefix_jax.models.families.t5 import T5Config
from prefix_jax.training.optimizer import hyperparameters_from
from prefix_jax.training.step import initial_state, make_gradient, make_step
from tests.training.test_loss import SPEC as LLAMA
from tests.training.test_loss import random_base

T5 = T5Config(
    vocab_size=23, layers=2, d_model=16, heads=2, kv_heads=2, head_dim=6, d_ff=24, norm_epsilon=1e-6,
    tie_embeddings=False,
    eos_id=1, bos_id=None, pad_id=0, encoder_depth=2, gated=True, activation="gelu", buckets=8, max_distance=16,
    decoder_start_id=0, scale_outputs=False,
)  # fmt: skip


def ragged(rng: np.random.Generator, count: int) -> Ragged:
    lengths = rng.integers(2, 9, count)
    return Ragged(rng.integers(3, 23, lengths.sum()).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def make(model_config, accumulation: int = 1, **options):
    config = default_config()
    config.prefix.update(dict(length=3, hidden=8, **options))
    model, base = build(model_config), random_base(model_config)
    rng = np.random.default_rng(0)
    data = TokenisedSet(ragged(rng, 64), ragged(rng, 64))
    batches = PackedBatches(data, Layout(model_config.is_encoder_decoder), batch=16, rows_multiple=accumulation)
    return model, base, tuning.build(config, model), batches, hyperparameters_from(config.optimizer, 20)


@pytest.mark.parametrize("model_config", [LLAMA, T5], ids=["llama", "t5"])
@pytest.mark.parametrize("reparameterisation", ["none", "mlp"])
def test_frozen_base_is_bitwise_equal_and_every_trained_leaf_moves(model_config, reparameterisation):
    model, base, method, batches, hyper = make(model_config, reparameterisation=reparameterisation)
    before = jax.tree.map(np.array, base)
    state = initial_state(method, base, hyper, seed=1, ema=0.0)
    start = jax.tree.map(np.array, state.trainable)
    step, losses = make_step(model, method), []
    for _ in range(12):
        state, metrics = step(base, hyper, state, batches.batch_at(0))
        losses.append(float(metrics["loss"]))
    jax.tree.map(np.testing.assert_array_equal, before, base)
    moved = jax.tree.map(lambda a, b: bool(np.abs(a - b).max() > 0), start, state.trainable)
    assert all(jax.tree.leaves(moved)), moved
    assert losses[-1] < losses[0]


def test_frozen_base_is_no_constant_of_the_program():
    model, base, method, batches, hyper = make(LLAMA)
    state = initial_state(method, base, hyper, seed=1, ema=0.0)
    text = make_step(model, method).lower(base, hyper, state, batches.batch_at(0)).as_text()
    largest = max(leaf.size for leaf in jax.tree.leaves(base))
    constants = [line for line in text.splitlines() if "stablehlo.constant" in line and 'dense<"0x' in line]
    assert all(len(line) < largest for line in constants)


def test_accumulated_gradient_equals_the_whole_batch():
    model, base, method, batches, hyper = make(LLAMA, accumulation=2)
    state = initial_state(method, base, hyper, seed=1, ema=0.0)
    gradient = jax.jit(make_gradient(model, method, per_record=False))
    batch, key = batches.batch_at(0), jax.random.key(0)
    whole = gradient(base, state.trainable, batch, key)
    parts = gradient(base, state.trainable, split(batch, 2), key)
    np.testing.assert_allclose(whole[0], parts[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole[1], parts[1])


def test_loss_over_examples_is_summed_over_tokens_and_averaged_over_records():
    model, base, method, batches, hyper = make(LLAMA)
    state = initial_state(method, base, hyper, seed=1, ema=0.0)
    batch, key = batches.batch_at(0), jax.random.key(0)
    tokens = jax.jit(make_gradient(model, method, per_record=False))(base, state.trainable, batch, key)
    records = jax.jit(make_gradient(model, method, per_record=True))(base, state.trainable, batch, key)
    factor = float(batch.weights.sum()) / 16
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a * factor, b, rtol=1e-4, atol=1e-6), tokens[1], records[1])


def test_dropout_depends_on_the_step_and_is_off_without_a_key():
    model, base, method, *_ = make(LLAMA, reparameterisation="none", dropout=0.5)
    trainable = jax.jit(method.init)(jax.random.key(0), base)
    one, two = (method.materialise(trainable, base, jax.random.key(k))[1].decoder.key for k in (1, 2))
    plain = method.materialise(trainable, base, None)[1].decoder.key
    assert np.any(one != two)
    np.testing.assert_array_equal(plain, trainable["decoder"]["key"])
    kept = one != 0
    np.testing.assert_allclose(one[kept], 2 * plain[kept], rtol=1e-6)


def test_moving_average_follows_the_trained_values():
    model, base, method, batches, hyper = make(LLAMA, reparameterisation="none")
    state = initial_state(method, base, hyper, seed=1, ema=0.9)
    first = np.array(state.trainable["decoder"]["key"])
    step = make_step(model, method, ema=0.9)
    state, _ = step(base, hyper, state, batches.batch_at(0))
    wanted = 0.1 * first + 0.9 * np.array(state.trainable["decoder"]["key"])
    np.testing.assert_allclose(state.average["decoder"]["key"], wanted, rtol=1e-5)


@pytest.mark.parametrize("model_config", [LLAMA, T5], ids=["llama", "t5"])
@pytest.mark.parametrize("activations", [pytest.param("float32", marks=pytest.mark.nightly), "bfloat16"])
def test_bfloat16_weights_give_the_gradients_of_float32_but_for_rounding(model_config, activations):
    """The same numbers as weights, once multiplied as bfloat16, with either type between the products."""
    model, base, method, batches, hyper = make(model_config)
    low = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), base)
    exact = jax.tree.map(lambda leaf: leaf.astype("float32"), low)
    state = initial_state(method, exact, hyper, seed=1, ema=0.0)
    found = {}
    for name, used, variables in (("exact", model, exact), ("low", build(model_config, activations=activations), low)):
        gradient = jax.jit(make_gradient(used, method, per_record=False))
        found[name] = gradient(variables, state.trainable, batches.batch_at(0), None)
    (loss, gradients, _), (low_loss, low_gradients, _) = found["exact"], found["low"]
    assert abs(float(loss - low_loss)) < 0.02 * float(loss)
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in (gradients, low_gradients))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(low_gradients))
