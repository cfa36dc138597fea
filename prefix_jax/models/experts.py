"""Mixtures of experts (Shazeer et al. 2017): an MLP of which each token takes a few of many, chosen by a router.

Rows sorted by expert meet the experts' matrices in grouped products, so that nothing is computed for experts that no
row chose, and no row is dropped.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from prefix_jax.models.layers import GatedMLP, Projection
from prefix_jax.models.matmul import matmul, operand, save_residual


class Router(nn.Module):
    """Logits of each expert for each row, in float32."""

    experts: int
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "N E"]) -> Float[Array, "N X"]:
        weight = self.param("weight", nn.initializers.lecun_normal(), (x.shape[-1], self.experts))
        logits = matmul(x.astype(jnp.float32), weight)
        if not self.bias:
            return logits
        return logits + self.param("bias", nn.initializers.zeros, (self.experts,)).astype(jnp.float32)


class ExpertProjection(nn.Module):
    """A matrix for each expert, `[X, C, F]`, applied to rows sorted by expert.

    An integer kernel is accompanied by a scale for each output, as in `Projection`.
    """

    experts: int
    outputs: int
    bias: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "N C"], chosen: Int[Array, " N"], sizes: Int[Array, " X"]
    ) -> Float[Array, "N F"]:
        init = nn.initializers.lecun_normal(batch_axis=0)
        kernel = operand(self.param("kernel", init, (self.experts, x.shape[-1], self.outputs)))
        y = save_residual(grouped_matmul(x, kernel, sizes), kernel.dtype)
        if self.has_variable("params", "scale"):
            y = y * jnp.take(self.get_variable("params", "scale"), chosen, axis=0).astype(y.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.experts, self.outputs))
            y = y + jnp.take(bias, chosen, axis=0).astype(y.dtype)
        return y


class Experts(nn.Module):
    """A mixture of gated MLPs.

    Attributes:
      experts: how many there are.
      chosen: how many each token takes, those with the largest logits.
      width: the inner width of each.
      gated: what the products of gate and up become.
      renormalised: whether the weights of those chosen sum to 1; else they are shares of all.
      bias: whether router and experts have biases.
      shared_width: the inner width of an MLP that all tokens take, times a gate of its own; 0: none.
    """

    experts: int
    chosen: int
    width: int
    gated: Callable[[Array, Array], Array] = lambda gate, up: jax.nn.silu(gate) * up
    renormalised: bool = True
    bias: bool = False
    shared_width: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "*batch E"]) -> Float[Array, "*batch E"]:
        rows = x.reshape(-1, x.shape[-1])
        weights, experts = self._route(rows)
        order = jnp.argsort(experts.reshape(-1), stable=True)
        inverse = jnp.argsort(order)
        chosen = experts.reshape(-1)[order]
        sizes = jnp.sum(chosen[:, None] == jnp.arange(self.experts), axis=0, dtype=jnp.int32)

        def projected(name: str, rows: Array, outputs: int) -> Array:
            return ExpertProjection(self.experts, outputs, self.bias, name=f"experts_{name}")(rows, chosen, sizes)

        sorted_rows = permuted(jnp.repeat(rows, self.chosen, axis=0), order, inverse)
        hidden = self.gated(projected("gate", sorted_rows, self.width), projected("up", sorted_rows, self.width))
        out = permuted(projected("down", hidden, x.shape[-1]), inverse, order)
        out = out.reshape(-1, self.chosen, x.shape[-1]).astype(jnp.float32) * weights[..., None]
        y = out.sum(axis=1).astype(x.dtype).reshape(x.shape)
        return y if not self.shared_width else y + self._shared(x)

    def _route(self, rows: Float[Array, "N E"]) -> tuple[Float[Array, "N k"], Int[Array, "N k"]]:
        """Returns the weights and the numbers of each row's experts."""
        shares = jax.nn.softmax(Router(self.experts, self.bias, name="router")(rows), axis=-1)
        weights, experts = lax.top_k(shares, self.chosen)
        return (weights / weights.sum(-1, keepdims=True) if self.renormalised else weights), experts

    def _shared(self, x: Array) -> Array:
        gate = Projection((1,), name="shared_gate")(x)
        return jax.nn.sigmoid(gate) * GatedMLP(self.shared_width, jax.nn.silu, name="shared")(x)


@jax.custom_vjp
def permuted(x: Float[Array, "N E"], order: Int[Array, " N"], inverse: Int[Array, " N"]) -> Float[Array, "N E"]:
    """Returns `x[order]`; its gradient is a gather too, by the inverse permutation, not a scatter."""
    return jnp.take(x, order, axis=0)


permuted.defvjp(
    lambda x, order, inverse: (jnp.take(x, order, axis=0), inverse),
    lambda inverse, g: (jnp.take(g, inverse, axis=0), None, None),
)


@jax.custom_vjp
def grouped_matmul(
    x: Float[Array, "N C"], kernel: Float[Array, "X C F"], sizes: Int[Array, " X"]
) -> Float[Array, "N F"]:
    """Multiplies each group of consecutive rows, of these sizes, by its matrix, as `matmul` does with one."""
    return _by_rows(1, x.dtype)(x.astype(kernel.dtype), kernel, sizes)


def _grouped_fwd(x: Any, kernel: Any, sizes: Any) -> tuple[Array, tuple]:
    kept = (x.value if kernel.perturbed else None, kernel.value, sizes.value, () if x.perturbed else None)
    return grouped_matmul(x.value, kernel.value, sizes.value), kept


def _grouped_bwd(kept: tuple, g: Any) -> tuple[Array | None, Array | None, None]:
    x, kernel, sizes, wanted = kept
    if isinstance(g, SymbolicZero):
        return None, None, None
    low = g.astype(kernel.dtype)
    d_x = None if wanted is None else _by_rows(2, g.dtype)(low, kernel, sizes)
    return d_x, None if x is None else _of_kernel(x.astype(kernel.dtype), low, sizes), None


grouped_matmul.defvjp(_grouped_fwd, _grouped_bwd, symbolic_zeros=True)


@lru_cache
def _by_rows(contracted: int, dtype: Any) -> Callable[[Array, Array, Array], Array]:
    """Returns the product of groups of rows with their matrices, of which it contracts the given axis."""
    axes = lax.RaggedDotDimensionNumbers((((1,), (contracted,)), ((), ())), [0], [0])
    product = partial(lax.ragged_dot_general, ragged_dot_dimension_numbers=axes, preferred_element_type=dtype)

    @custom_vmap
    def run(x: Array, kernel: Array, sizes: Array) -> Array:
        return product(x, kernel, sizes)

    @run.def_vmap
    def members(count: int, batched: list[bool], x: Array, kernel: Array, sizes: Array) -> tuple[Array, bool]:
        """JAX has no such rule. Members of a sweep share the matrices, so all their rows are sorted together."""
        x, sizes = (
            part if mapped else jnp.stack([part] * count) for part, mapped in ((x, batched[0]), (sizes, batched[2]))
        )
        if batched[1]:
            return lax.map(lambda one: run(*one), (x, kernel, sizes)), True
        ends = jnp.cumsum(sizes, axis=1)
        groups = jax.vmap(lambda end: jnp.searchsorted(end, jnp.arange(x.shape[1]), side="right"))(ends).reshape(-1)
        order = jnp.argsort(groups, stable=True)
        rows = jnp.take(x.reshape(-1, x.shape[-1]), order, axis=0)
        y = jnp.take(run(rows, kernel, sizes.sum(0)), jnp.argsort(order), axis=0)
        return y.reshape(*x.shape[:2], -1), True

    return run


@custom_vmap
def _of_kernel(x: Float[Array, "N C"], g: Float[Array, "N F"], sizes: Int[Array, " X"]) -> Float[Array, "X C F"]:
    axes = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    return lax.ragged_dot_general(x, g, sizes, axes, preferred_element_type=x.dtype)


@_of_kernel.def_vmap
def _of_kernels(count: int, batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
    whole = tuple(part if mapped else jnp.stack([part] * count) for part, mapped in zip(arrays, batched, strict=True))
    return lax.map(lambda one: _of_kernel(*one), whole), True
