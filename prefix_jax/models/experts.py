"""Mixtures of experts (Shazeer et al. 2017): an MLP of which each token takes a few of many, chosen by a router.

Rows sorted by expert meet the experts' matrices in grouped products, so that nothing is computed for experts that no
row chose, and no row is dropped.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from prefix_jax.models.layers import GatedMLP, Projection, Sharder
from prefix_jax.models.matmul import matmul, operand, precision, save_residual


class Router(nn.Module):
    """Logits of each expert for each token, in float32."""

    experts: int
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch E"]) -> Float[Array, "*batch X"]:
        weight = self.param("weight", nn.initializers.lecun_normal(), (x.shape[-1], self.experts))
        logits = matmul(x.astype(jnp.float32), weight)
        if not self.bias:
            return logits
        return logits + self.param("bias", nn.initializers.zeros, (self.experts,)).astype(jnp.float32)


class Matrices(NamedTuple):
    """A matrix for each expert. An integer kernel is accompanied by a scale for each output, as in `Projection`."""

    kernel: Float[Array, "X C F"] | Int[Array, "X C F"]
    scale: Float[Array, "X F"] | None = None
    bias: Float[Array, "X F"] | None = None

    def __call__(
        self, x: Float[Array, "N C"], chosen: Int[Array, " N"], sizes: Int[Array, " X"]
    ) -> Float[Array, "N F"]:
        """Multiplies rows sorted by expert; `chosen` are their experts and `sizes` the rows of each."""
        kernel = operand(self.kernel)
        y = save_residual(grouped_matmul(x, kernel, sizes), kernel.dtype)
        if self.scale is not None:
            y = y * jnp.take(self.scale, chosen, axis=0).astype(y.dtype)
        return y if self.bias is None else y + jnp.take(self.bias, chosen, axis=0).astype(y.dtype)


class ExpertMatrices(nn.Module):
    """The parameters of a matrix for each expert."""

    experts: int
    inputs: int
    outputs: int
    bias: bool = False

    @nn.compact
    def __call__(self) -> Matrices:
        init = nn.initializers.lecun_normal(batch_axis=0)
        kernel = self.param("kernel", init, (self.experts, self.inputs, self.outputs))
        scale = self.get_variable("params", "scale") if self.has_variable("params", "scale") else None
        shape = (self.experts, self.outputs)
        return Matrices(kernel, scale, self.param("bias", nn.initializers.zeros, shape) if self.bias else None)


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
    sharder: Sharder | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch E"]) -> Float[Array, "*batch E"]:
        wide, width = x.shape[-1], self.width
        weights, experts = self._route(x)
        parts = {"gate": (wide, width), "up": (wide, width), "down": (width, wide)}
        matrices = tuple(
            ExpertMatrices(self.experts, *shape, self.bias, name=f"experts_{name}")() for name, shape in parts.items()
        )
        run = partial(_mixed, self.gated)
        if self.sharder is None:
            y = run(x, weights, experts, matrices)
        else:
            y = self.sharder.own_rows_of(run, (x, weights, experts), matrices)
        return y if not self.shared_width else y + self._shared(x)

    def _route(self, x: Float[Array, "*batch E"]) -> tuple[Float[Array, "*batch k"], Int[Array, "*batch k"]]:
        """Returns the weights and the numbers of each token's experts."""
        shares = jax.nn.softmax(Router(self.experts, self.bias, name="router")(x), axis=-1)
        weights, experts = lax.top_k(shares, self.chosen)
        return (weights / weights.sum(-1, keepdims=True) if self.renormalised else weights), experts

    def _shared(self, x: Array) -> Array:
        gate = Projection((1,), name="shared_gate")(x)
        return jax.nn.sigmoid(gate) * GatedMLP(self.shared_width, jax.nn.silu, name="shared")(x)


def _mixed(
    gated: Callable[[Array, Array], Array],
    x: Float[Array, "*batch E"],
    weights: Float[Array, "*batch k"],
    experts: Int[Array, "*batch k"],
    matrices: tuple[Matrices, ...],
) -> Float[Array, "*batch E"]:
    """Returns the weighted sum of each token's experts; `matrices` are those of gate, up and down."""
    gate, up, down = matrices
    count, each = gate.kernel.shape[0], experts.shape[-1]
    order = jnp.argsort(experts.reshape(-1), stable=True)
    inverse, chosen = jnp.argsort(order), experts.reshape(-1)[order]
    sizes = jnp.sum(chosen[:, None] == jnp.arange(count), axis=0, dtype=jnp.int32)
    rows = permuted(jnp.repeat(x.reshape(-1, x.shape[-1]), each, axis=0), order, inverse)
    out = down(gated(gate(rows, chosen, sizes), up(rows, chosen, sizes)), chosen, sizes)
    out = permuted(out, inverse, order).reshape(*experts.shape, x.shape[-1])
    return (out.astype(jnp.float32) * weights[..., None]).sum(axis=-2).astype(x.dtype)


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
        return product(x, kernel, sizes, precision=precision(x.dtype))

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
    return lax.ragged_dot_general(x, g, sizes, axes, precision=precision(x.dtype), preferred_element_type=x.dtype)


@_of_kernel.def_vmap
def _of_kernels(count: int, batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
    whole = tuple(part if mapped else jnp.stack([part] * count) for part, mapped in zip(arrays, batched, strict=True))
    return lax.map(lambda one: _of_kernel(*one), whole), True
