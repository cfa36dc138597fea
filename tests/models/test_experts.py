"""Mixtures of experts: grouped products against dense ones, alone and mapped, and checkpoints in each form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import save_file

from prefix_jax.models.experts import grouped_matmul
from prefix_jax.models.pretrained import load
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity.cases import CASES, SHAPE

MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss")
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
    pair = CASES[name].pair()
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


def test_experts_in_4_bits_are_those_that_transformers_reads(tmp_path):
    """Released gpt-oss files hold blocks and their exponents, of matrices whose outputs come first."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    shape = {**SHAPE, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
    pair = tm.decoder_only("GptOss", **shape, num_local_experts=3, num_experts_per_tok=2, head_dim=6)
    generator, tensors = np.random.default_rng(0), {}
    for name, value in pair.torch.state_dict().items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = value
            continue
        experts, inputs, outputs = value.shape
        blocks = torch.tensor(generator.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8))
        scales = torch.tensor(generator.integers(118, 126, (experts, outputs, inputs // 32), np.uint8))
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        value.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    pair.torch.config.quantization_config = {"quant_method": "mxfp4"}
    pair.torch.config.save_pretrained(tmp_path)
    expected = tm.tree_of(pair.torch, pair.model_config)
    jax.tree.map(np.testing.assert_array_equal, load(str(tmp_path), "float32").params, expected)


def test_recomputed_layers_give_the_same_gradient():
    pair = CASES["qwen2_moe"].pair()
    prefix, tokens = tm.random_prefix(pair.model_config, 3), np.arange(12)[None]

    def gradient(model):
        def loss(trained):
            return model.apply(pair.variables, tokens, prefix=tm.with_leaves(prefix, trained)).std()

        return tm.jit(jax.grad(loss))(tm.differentiable(prefix))

    _close(gradient(pair.model.clone(rematerialise=True)), gradient(pair.model))
