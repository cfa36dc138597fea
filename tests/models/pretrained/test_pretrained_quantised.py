"""Weights in 8 bits: what is read is what rounding by hand gives, and models multiply it as it is meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.models import FAMILIES as MODELS
from prefix_jax.models import build, leaves
from prefix_jax.models.families.mixture import MixtureConfig
from prefix_jax.models.pretrained import load, quantised
from prefix_jax.models.pretrained.loading import flatten, unflatten
from prefix_jax.planning.abstract import base_shapes
from tests.models import torch_models as tm
from tests.parity.cases import CASES, of_family, params

FAMILIES = ("gpt2", "llama", "t5")


def restored(params):
    """The float32 matrices that integers and scales mean, in a tree of the usual form."""
    flat = flatten(params)
    found = {}
    for path, leaf in flat.items():
        axes = quantised.input_axes(path, leaf.ndim)
        if axes is not None:
            scale = flat[path.removesuffix("kernel") + "scale"]
            found[path] = leaf.astype(jnp.float32) * jnp.expand_dims(scale, axes)
        elif not (path.endswith("/scale") and path.removesuffix("scale") + "kernel" in flat):
            found[path] = leaf
    return unflatten(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_integers_times_scales_are_the_weights_to_half_a_step(family, tiny_models):
    source = str(tiny_models[family])
    plain, small = flatten(load(source).params), load(source, quantisation="int8").params
    for path, leaf in flatten(restored(small)).items():
        axes = quantised.input_axes(path, leaf.ndim)
        if axes is None:
            np.testing.assert_array_equal(leaf, plain[path])
        else:
            step = np.abs(plain[path]).max(axes, keepdims=True) / 127
            assert (np.abs(leaf - plain[path]) <= 0.501 * step).all(), path
            assert flatten(small)[path].dtype == np.int8


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_model_computes_what_its_restored_weights_compute(family, tiny_models):
    """To the rounding of hidden states to bfloat16, which has 8 bits."""
    small = load(str(tiny_models[family]), quantisation="int8")
    model, ids = build(small.model_config), jnp.arange(3, 23)[None]
    more = {"encoder_tokens": ids} if small.model_config.is_encoder_decoder else {}
    found = model.apply({"params": small.params}, ids, **more)
    expected = model.apply({"params": restored(small.params)}, ids, **more)
    np.testing.assert_allclose(found, expected, atol=2e-2 * float(jnp.abs(expected).max()))


BARE = ("gpt_neo", "opt_norms_after_narrow", "codegen", "bloom", "mpt", "falcon_40b", "falcon_rw", "gpt_neox")
# Of a mixture, a rounded number may choose another expert: tests/models/test_experts.py has them.
FIRST = {
    next(iter(of_family(name))) for name, family in MODELS.items() if not issubclass(family.model_config, MixtureConfig)
}


@pytest.mark.parametrize(("name", "bare"), [*params(BARE, True), *params(sorted({*FIRST, *BARE}), False)])
def test_families_are_read_from_files_whole_and_quantised(name, bare, tmp_path):
    """Names that others have too are no sign of another tool's checkpoint, with or without the base model's prefix."""
    pair = CASES[name].pair()
    if bare and not pair.model_config.tie_embeddings:
        pytest.skip("its head is no part of the base model")
    (pair.torch.base_model if bare else pair.torch).save_pretrained(tmp_path)
    whole, small = load(str(tmp_path)), load(str(tmp_path), quantisation="int8")
    assert whole.model_config == pair.model_config
    jax.tree.map(np.testing.assert_array_equal, whole.params, pair.variables["params"])
    ids = jnp.arange(3, 23)[None]
    more = {"encoder_tokens": ids} if pair.model_config.is_encoder_decoder else {}
    apply = tm.jit(lambda params: pair.model.apply({"params": params}, ids, **more))
    expected = apply(restored(small.params))
    error = float(jnp.abs(apply(small.params) - expected).max())
    if error > 4e-2 * float(jnp.abs(expected).max()):
        # Integers are multiplied as bfloat16, whose rounding alone moves some of these models as far.
        rounded = apply(jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim > 1 else x, restored(small.params)))
        assert error <= 2 * float(jnp.abs(rounded.astype(jnp.float32) - expected).max())


def test_gradients_of_a_prefix_go_through_integers(tiny_models):
    small = load(str(tiny_models["llama"]), quantisation="int8")
    config, model, ids = default_config(), build(small.model_config), jnp.arange(3, 23)[None]
    config.prefix.update(length=4, reparameterisation="none", initialisation="random")
    method = tuning.build(config, model)

    def loss(trainable, base):
        variables, prefix = method.materialise(trainable, base, None)
        return jax.nn.logsumexp(model.apply(variables, ids, prefix=prefix), -1).sum()

    trainable = method.init(jax.random.key(0), {"params": small.params})
    found = jax.jit(jax.grad(loss))(trainable, {"params": small.params})
    expected = jax.jit(jax.grad(loss))(trainable, {"params": restored(small.params)})
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-2 * float(jnp.abs(b).max()))


def test_a_shard_is_read_as_it_is_in_the_whole():
    rng = np.random.default_rng(0)
    plain = {
        "layers/attention/qkv/kernel": rng.normal(size=(3, 8, 2, 4, 5)),
        "layers/attention/out/kernel": rng.normal(size=(3, 2, 2, 5, 8)),
    }
    parts = quantised.quantise({path: leaves.from_array(value) for path, value in plain.items()})
    indices = {
        "layers/attention/qkv/kernel": (slice(1, 3), slice(2, 6), slice(1, 2), slice(None), slice(None)),
        "layers/attention/qkv/scale": (slice(1, 3), slice(1, 2), slice(None), slice(2, 4)),
        "layers/attention/out/kernel": (slice(0, 1), slice(0, 1), slice(None), slice(None), slice(4, 8)),
        "layers/attention/out/scale": (slice(0, 2), slice(4, 8)),
    }
    assert indices.keys() == parts.keys()
    for path, index in indices.items():
        whole = parts[path].all()
        assert whole.shape == parts[path].shape and whole.dtype == parts[path].dtype
        np.testing.assert_array_equal(parts[path].read(index), whole[index])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_planner_has_the_shapes_that_are_loaded(family, tiny_models):
    small = load(str(tiny_models[family]), "bfloat16", quantisation="int8")
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), base_shapes(small.model_config, "bfloat16", "int8"))
    assert found == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), small.params)


def test_an_unknown_quantisation_is_one_sentence(tiny_models):
    with pytest.raises(UserError, match='model.quantisation is "int4"'):
        load(str(tiny_models["gpt2"]), quantisation="int4")
