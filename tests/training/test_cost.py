"""What a step computes and keeps, counted in the compiled program: a guard of speed that no noise moves."""

import dataclasses

import jax
import pytest

from prefix_jax.models import build
from prefix_jax.parallel.program import product_flops
from prefix_jax.training.loss import loss_sums
from prefix_jax.training.step import initial_state, make_gradient
from tests.training.test_loss import SPEC as LLAMA
from tests.training.test_step import make

DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def made(model_config, dtype: str):
    """As `make`, with a base of a type, and float32 between its products: as on a CPU."""
    _, base, method, batches, hyper = make(model_config, reparameterisation="none")
    model = build(model_config, activations="float32")
    return model, jax.tree.map(lambda leaf: leaf.astype(dtype), base), method, batches, hyper


def gradient_program(dtype: str):
    """The compiled gradient, and its batch."""
    model, base, method, batches, hyper = made(LLAMA, dtype)
    state = initial_state(method, base, hyper, seed=1, ema=0.0)
    batch = batches.batch_at(0)
    program = (
        jax.jit(make_gradient(model, method, per_record=False)).lower(base, state.trainable, batch, None).compile()
    )
    return program, batch


def expected_flops(batch, dtype: str, length: int = 3) -> int:
    """Forwards and back to the input through every frozen product; attention twice forwards and five products back, and
    in bfloat16 the transpose of the keys, which is a product too.
    """
    s = LLAMA
    rows, columns = batch.tokens.shape
    tokens = rows * columns
    weights = s.d_model * s.kv_heads * s.head_dim * (s.heads // s.kv_heads + 2) + s.d_model * s.heads * s.head_dim
    weights += 3 * s.d_model * s.d_ff
    frozen = 2 * 2 * tokens * weights
    attention = (2 + 5) * 2 * tokens * (columns + length) * s.heads * s.head_dim
    turned = 2 * (tokens + length) * s.kv_heads * s.head_dim**2 if dtype == "bfloat16" else 0
    vocabulary = 2 * 2 * batch.targets.size * s.d_model * s.vocab_size
    return s.layers * (frozen + attention + turned) + vocabulary


@DTYPES
def test_a_step_multiplies_no_more_than_the_count_by_hand(dtype):
    program, batch = gradient_program(dtype)
    # The first layer's products have no gradient to pass on but for the scan, which treats all layers alike.
    assert product_flops(program.as_text()) == pytest.approx(expected_flops(batch, dtype), rel=0.02)


@DTYPES
def test_only_products_are_kept_for_the_gradient(dtype):
    """No weights of attention, no gate times up and no normed input of any layer."""
    model_config = dataclasses.replace(LLAMA, layers=3)  # a number that no other axis has
    model, base, method, batches, _ = made(model_config, dtype)
    batch = batches.batch_at(0)
    prefix = method.materialise(jax.jit(method.init)(jax.random.key(0), base), base, None)[1]
    program = jax.make_jaxpr(
        lambda site: jax.vjp(lambda s: loss_sums(model, base, prefix.replace(decoder=s), batch)[0], site)[1]
    )(prefix.decoder)
    lead = (model_config.layers, *batch.tokens.shape)
    heads, group = model_config.kv_heads, model_config.heads // model_config.kv_heads
    keys = (model_config.layers, len(batch.tokens), heads, batch.tokens.shape[1])
    attended = (model_config.layers, len(batch.tokens), heads, group, batch.tokens.shape[1])
    head = model_config.head_dim
    allowed = [
        (*lead, model_config.d_model),  # the layer's input
        (*attended, head), (*keys, head), (*keys, head),  # queries, keys and values
        (*attended, head), (*attended, 1), (*attended, 1),  # what attention gives, its maxima, its sums
        (*lead, model_config.d_model),  # attention's output product
        (*lead, model_config.d_ff), (*lead, model_config.d_ff),  # gate and up
    ]  # fmt: skip
    weights = {leaf.shape for leaf in jax.tree.leaves(base["params"]["layers"])} | {prefix.decoder.key.shape}
    kept = [
        v.aval.shape for v in program.jaxpr.outvars if v.aval.shape[:1] == (model_config.layers,) and v.aval.ndim > 1
    ]
    assert sorted(shape for shape in kept if shape not in weights) == sorted(allowed)
