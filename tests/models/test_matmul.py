"""Products and attention have gradients of their own: they are those of the plain formulas, in both types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.models.attention import KVSource, attend
from prefix_jax.models.masks import MASKED, mask_pair
from prefix_jax.models.matmul import KEPT, as_bits, matmul, matmul_transposed, save_residual


def normal(seed: int, *shape: int):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_gradients_of_a_product_are_those_of_the_formula(transposed, dtype, tolerance):
    x, kernel, g = normal(0, 3, 5, 8), normal(1, 8, 6).astype(dtype), normal(2, 3, 5, 6)
    ours = lambda x, kernel: (matmul_transposed(x, kernel.T) if transposed else matmul(x, kernel)) * g
    plain = lambda x, kernel: x @ kernel.astype(jnp.float32) * g
    for which in (0, 1):
        found = jax.jit(jax.grad(lambda *a: ours(*a).sum(), which))(x, kernel)
        expected = jax.grad(lambda *a: plain(*a).sum(), which)(x, kernel)
        assert found.dtype == (x, kernel)[which].dtype
        scale = np.abs(np.asarray(expected, np.float32)).max()
        np.testing.assert_allclose(
            np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=tolerance * scale
        )


def test_a_frozen_kernel_has_no_gradient_and_its_input_is_not_kept():
    kernel = normal(1, 8, 6)
    program = jax.make_jaxpr(jax.grad(lambda x: matmul(x, kernel).sum()))(normal(0, 5, 8))
    assert str(program).count("dot_general") == 2  # forwards, and back to x


def test_a_product_under_vmap_is_one_of_each():
    x, kernels = normal(0, 5, 8), normal(1, 3, 8, 6)
    found = jax.vmap(matmul, in_axes=(None, 0))(x, kernels)
    np.testing.assert_allclose(found, jnp.einsum("tc,lcn->ltn", x, kernels), rtol=1e-5, atol=1e-5)


def test_what_is_kept_is_rounded_and_passes_its_gradient_on():
    x = normal(0, 4, 4)
    np.testing.assert_array_equal(save_residual(x, jnp.bfloat16), x.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(
        jax.grad(lambda x: (save_residual(x, jnp.bfloat16) * 3.0).sum())(x), jnp.full((4, 4), 3.0)
    )
    policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    kept = jax.checkpoint(lambda x: jnp.sin(save_residual(x * 2, jnp.bfloat16)).sum(), policy=policy)
    assert "u16" in str(jax.make_jaxpr(jax.grad(kept))(x)), "bfloat16 is stored as bits"


def test_bits_of_trained_weights_are_refused_and_not_silently_frozen():
    with pytest.raises(NotImplementedError, match="must be float32"):
        jax.grad(lambda w: as_bits(w).astype(jnp.float32).sum())(normal(0, 3).astype(jnp.bfloat16))


def plain_attention(query, sources, scale):
    """One softmax over the concatenated sources, by the formula and with nothing shared."""
    shape = query.shape[:-1]

    def whole(leaf):
        lead = query.shape[: query.ndim - 4]
        leaf = leaf.reshape(*leaf.shape[:-3], *(1,) * (len(lead) - (leaf.ndim - 3)), *leaf.shape[-3:])
        return jnp.broadcast_to(leaf, (*lead, *leaf.shape[-3:]))

    logits = []
    for source in sources:
        each = jnp.einsum("...kgtd,...ksd->...kgts", query * scale, whole(source.key))
        each = each if source.bias is None else each + getattr(source.bias, "rows", source.bias)
        mask = getattr(source.mask, "rows", source.mask)
        logits.append(
            jnp.broadcast_to(each if mask is None else jnp.where(mask, each, MASKED), (*shape, each.shape[-1]))
        )
    weights = jax.nn.softmax(jnp.concatenate(logits, -1), -1)
    return jnp.einsum("...kgts,...ksd->...kgtd", weights, jnp.concatenate([whole(s.value) for s in sources], -2))


def cases():
    """A prefix with a bias for each slot, a cache that beams share, and fresh tokens with a mask and a bias."""
    b, n, k, g, t, d = 2, 3, 2, 2, 4, 8
    prefix = KVSource(normal(1, k, 5, d), normal(2, k, 5, d), bias=normal(3, k, 1, 1, 5))
    cache = KVSource(normal(4, b, k, 6, d), normal(5, b, k, 6, d), mask=jnp.arange(6) < 4)
    causal = jnp.tril(jnp.ones((t, t), bool))
    for name, wrap in (("plain", lambda x: x), ("oriented", mask_pair)):
        tokens = KVSource(normal(6, b, n, k, t, d), normal(7, b, n, k, t, d), wrap(normal(8, k, 1, t, t)), wrap(causal))
        yield pytest.param(normal(0, b, n, k, g, t, d), (prefix, cache, tokens), id=name)


@pytest.mark.parametrize("query, sources", cases())
@pytest.mark.parametrize("operands, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_gradients_of_attention_are_those_of_the_formula(query, sources, operands, tolerance):
    g = normal(9, *query.shape)
    trained = lambda s: {"key": s.key, "value": s.value, "bias": getattr(s.bias, "rows", s.bias)}

    def with_leaves(source, leaves):
        bias = leaves["bias"]
        bias = source.bias._replace(rows=bias) if hasattr(source.bias, "rows") else bias
        return source._replace(key=leaves["key"], value=leaves["value"], bias=bias)

    def loss(attention):
        def of(query, leaves):
            given = tuple(with_leaves(s, each) for s, each in zip(sources, leaves, strict=True))
            return (attention(query, given) * g).sum()

        return jax.jit(jax.grad(of, (0, 1)))(query, [trained(s) for s in sources])

    expected = loss(lambda q, s: plain_attention(q, s, 0.3))
    found = loss(lambda q, s: attend(q, s, 0.3, operands))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_a_query_that_sees_nothing_has_the_mean_and_no_gradient():
    query, key, value = normal(0, 1, 1, 2, 4), normal(1, 1, 3, 4), normal(2, 1, 3, 4)
    attention = lambda q, k, v: attend(q, (KVSource(k, v, mask=jnp.array([[False], [True]])),), 1.0, "float32")
    np.testing.assert_allclose(attention(query, key, value)[0, 0, 0], value[0].mean(0), rtol=1e-6)
    only = lambda q, k, v: attention(q, k, v)[0, 0, 0].sum()
    for gradient in jax.grad(only, (0, 1, 2))(query, key, value):
        np.testing.assert_array_equal(gradient, 0.0)
