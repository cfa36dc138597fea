"""Mixtures of experts: grouped products against dense ones, alone and mapped, and checkpoints in each form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.models.experts import grouped_matmul
from prefix_jax.models.pretrained import load
from tests.models import torch_models as tm
from tests.models.test_decoder_only import CASES

MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
SIZES = np.array([[3, 0, 4, 2], [0, 0, 9, 0], [2, 3, 3, 1]])
ROWS, KERNEL = (np.random.default_rng(n).standard_normal(s, np.float32) for n, s in enumerate([(3, 9, 5), (4, 5, 6)]))


def _dense(x, kernel, sizes):
    chosen = jnp.repeat(jnp.arange(len(sizes)), sizes, total_repeat_length=len(x))
    return jnp.einsum("nc,ncf->nf", x, kernel[chosen])


def _close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


@pytest.mark.parametrize("shared", [True, False])
def test_a_mapped_product_equals_those_of_each_member(shared):
    """JAX has no rule for members that share the matrices; those that train their own have one each."""
    kernel, axes = (KERNEL, (0, None, 0)) if shared else (np.stack([KERNEL, -KERNEL, 2 * KERNEL]), 0)

    def loss(product):
        return lambda x, kernel, sizes: (jax.vmap(product, axes)(x, kernel, sizes) ** 2).sum()

    found, expected = (
        tm.jit(jax.value_and_grad(loss(product), (0, 1)))(ROWS, kernel, SIZES) for product in (grouped_matmul, _dense)
    )
    _close(found, expected)


def test_a_frozen_matrix_leaves_no_rows_behind():
    """The gradient of activations alone keeps the matrices and sizes, not the rows."""
    kept = jax.eval_shape(lambda x: jax.vjp(lambda x: grouped_matmul(x, jnp.asarray(KERNEL), SIZES[0]), x)[1], ROWS[0])
    assert ROWS[0].shape not in [leaf.shape for leaf in jax.tree.leaves(kept)]


@pytest.mark.parametrize("name", MIXTURES)
def test_what_transformers_saves_is_read_and_quantised(name, tmp_path):
    """It holds experts in one tensor and saves them one by one, as published checkpoints do."""
    pair = CASES[name]()
    pair.torch.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), "float32")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, pair.variables["params"])
    small = load(str(tmp_path), "float32", quantisation="int8").params["layers"]["mlp"]
    for part in ("gate", "up", "down"):
        whole, tree = loaded.params["layers"]["mlp"][f"experts_{part}"], small[f"experts_{part}"]
        assert tree["kernel"].dtype == jnp.int8 and tree["scale"].shape == (
            *whole["kernel"].shape[:2],
            whole["kernel"].shape[-1],
        )
        restored = tree["kernel"] * tree["scale"][:, :, None]
        assert np.abs(restored - whole["kernel"]).max() <= np.abs(whole["kernel"]).max() / 254 + 1e-6
    assert small["router"]["weight"].dtype == jnp.float32
    tokens = np.arange(8)[None]
    full, low = (
        pair.model.apply({"params": params}, tokens)
        for params in (loaded.params, {**loaded.params, "layers": {**loaded.params["layers"], "mlp": small}})
    )
    assert np.corrcoef(np.ravel(full), np.ravel(low))[0, 1] > 0.99


def test_recomputed_layers_give_the_same_gradient():
    pair = CASES["qwen2_moe"]()
    prefix, tokens = tm.random_prefix(pair.model_config, 3), np.arange(12)[None]

    def gradient(model):
        def loss(trained):
            return model.apply(pair.variables, tokens, prefix=tm.with_leaves(prefix, trained)).std()

        return tm.jit(jax.grad(loss))(tm.differentiable(prefix))

    _close(gradient(pair.model.clone(rematerialise=True)), gradient(pair.model))
