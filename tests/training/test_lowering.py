"""Programs lower for GPUs and TPUs on a machine that has neither, without anything that only CPUs have."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from prefix_jax import decoding, tuning
from prefix_jax.config import default_config
from prefix_jax.data.batching import Batch
from prefix_jax.decoding.generate import _generate
from prefix_jax.decoding.kv_cache import Inputs
from prefix_jax.models import build, from_hf
from prefix_jax.models.families import bart_like, gpt2, rotary_decoder
from prefix_jax.planning.abstract import base_shapes
from prefix_jax.training.optimizer import hyperparameters_from
from prefix_jax.training.step import initial_state, make_step

MODELS = {
    "gpt2": gpt2.sizes(2, 64, 4, 128),
    "llama": rotary_decoder.sizes("llama", 2, 64, 4, 2, 128, 128),
    "bart": bart_like.sizes("bart", 2, 64, 4, 128, 128),
}
# A value rounded to bfloat16 and held as integers, as residuals are on CPUs.
BITS = re.compile(r"bitcast_convert .*bf16")
array = jax.ShapeDtypeStruct
int32 = partial(array, dtype=jnp.int32)


def lowered(run, platform: str, *arguments) -> str:
    return run.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def custom_calls(text: str) -> set[str]:
    return set(re.findall(r"custom_call @([\w.]+)", text))


def prepared(name: str, dtype: str, activations: str | None = None):
    model_config = from_hf(MODELS[name])
    config = default_config()
    config.prefix.update(length=4, hidden=16, sites="all")
    model = build(model_config, activations=activations or dtype)
    base = {"params": base_shapes(model_config, dtype)}
    return config, model, base, tuning.build(config, model)


def step_text(prepared: tuple, platform: str) -> str:
    config, model, base, method = prepared
    hyper = hyperparameters_from(config.optimizer, 10)
    state = jax.eval_shape(lambda base: initial_state(method, base, hyper, 0, 0.0), base)
    source, target, weights = int32((2, 16)), int32((2, 8)), array((2, 8), jnp.float32)
    batch = Batch(source, source, source, target, target, weights)
    if model.model_config.is_encoder_decoder:
        batch = Batch(target, target, target, target, target, weights, source, source, source)
    return lowered(make_step(model, method), platform, base, hyper, state, batch)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_has_nothing_of_cpus(name, dtype, platform):
    text = step_text(prepared(name, dtype), platform)
    assert not custom_calls(text)
    assert not BITS.search(text)
    assert_precise(text, dtype)


def test_the_form_for_cpus_is_recognised():
    assert BITS.search(step_text(prepared("llama", "bfloat16", activations="float32"), "cpu"))


@pytest.mark.parametrize(
    "strategy, platform", [("greedy", "cuda"), ("greedy", "tpu"), ("beam", "cuda"), ("sample", "tpu")]
)
@pytest.mark.parametrize("name", MODELS)
def test_decoding_has_nothing_of_cpus(name, strategy, platform):
    _, model, base, method = prepared(name, "bfloat16")
    trainable = jax.eval_shape(lambda base: method.init(jax.random.key(0), base), base)
    _, prefix = jax.eval_shape(lambda trainable, base: method.materialise(trainable, base, None), trainable, base)
    options = decoding.GenerationConfig(strategy=strategy, beams=3 if strategy == "beam" else 1, max_length=8)
    inputs = Inputs(int32((2, 16)), int32((2,)), int32((2,)))
    text = lowered(_generate, platform, model, options.program(), base, prefix, inputs, array((), jnp.uint32))
    assert not custom_calls(text)
    assert not BITS.search(text)


def assert_precise(text: str, dtype: str) -> None:
    """Every product of float32 numbers is one of float32 numbers on the device too."""
    products = [line for line in text.split("\n") if "stablehlo.dot_general" in line]
    wide = [line for line in products if not re.search(r"tensor<[\dx]*bf16>", line.partition("->")[0])]
    assert wide, "the prefix's MLP is float32"
    assert dtype == "bfloat16" or len(wide) == len(products)
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in wide)
