"""Matrix products with operands in the weights' dtype, float32 accumulation, and gradients of the same form.

JAX's own gradient of a bfloat16 product with float32 sums multiplies a float32 cotangent by a bfloat16 operand, which
hardware does not support at full speed; here the cotangent is rounded to the operands' dtype first.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

# Name of the residuals that a layer stores; everything else is pointwise or small and is recomputed.
KEPT = "kept"


def save_residual(x: Array, dtype: Any = None) -> Array:
    """Marks an intermediate value as a residual of layers that are otherwise recomputed.

    A float32 value is stored as bfloat16 if `dtype` is bfloat16; it is returned in its own dtype.
    """
    return _keep_rounded(x, jnp.dtype(dtype)) if _narrows(x, dtype) else checkpoint_name(x, KEPT)


def save_vjp_residual(x: Array, dtype: Any = None) -> Array:
    """Marks a residual inside the forward rule of a custom gradient.

    Nothing is differentiated there: `save_residual`, with a custom gradient itself, would hide the residual's name.
    """
    return _rounded(x, jnp.dtype(dtype)) if _narrows(x, dtype) else checkpoint_name(x, KEPT)


def _narrows(x: Array, dtype: Any) -> bool:
    return x.dtype == jnp.float32 and dtype == jnp.bfloat16


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _keep_rounded(x: Array, dtype: Any) -> Array:
    return _rounded(x, dtype)


def _rounded(x: Array, dtype: Any) -> Array:
    # Stored as integer bits: see `as_bits`.
    bits = checkpoint_name(lax.bitcast_convert_type(x.astype(dtype), jnp.uint16), KEPT)
    return lax.bitcast_convert_type(bits, dtype).astype(x.dtype)


_keep_rounded.defvjp(lambda x, dtype: (_rounded(x, dtype), None), lambda dtype, _, g: (g,))


@jax.custom_jvp
def as_bits(x: Array) -> Array:
    """Bitcasts bfloat16 numbers to integers, which the CPU compiler copies without converting to float32."""
    return lax.bitcast_convert_type(x, jnp.uint16)


@as_bits.defjvp
def _no_gradient(*_: Any) -> Any:
    raise NotImplementedError("trained weights must be float32")


def precision(dtype: Any) -> lax.Precision:
    """Returns how operands of a dtype are multiplied: float32 as float32, which accelerators round by default."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT


def exact(a: Float[Array, "... M C"], b: Float[Array, "C N"]) -> Float[Array, "... M N"]:
    """Returns `a @ b` of trained, small matrices, with JAX's own gradient."""
    return jnp.matmul(a, b, precision=precision(jnp.result_type(a, b)))


def transposed(x: Float[Array, "*batch M N"], dtype: Any) -> Float[Array, "*batch N M"]:
    """Returns the transpose rounded to `dtype`.

    Narrowing (as on CPUs) is done by an exact product with the identity: the compiler would fold a plain transpose into
    the next product, and CPUs support products of that form in float32 only.
    """
    if not _narrows(x, dtype):
        return jnp.swapaxes(x.astype(dtype), -1, -2)
    identity = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=dtype), (*x.shape[:-2], x.shape[-1], x.shape[-1]))
    return batched(identity, x, dtype, transposed=True).astype(dtype)


def operand(kernel: Array) -> Array:
    """Returns a kernel in its matmul dtype; every 8-bit integer is exactly representable in bfloat16."""
    return kernel.astype(jnp.bfloat16) if kernel.dtype == jnp.int8 else kernel


def matmul(x: Float[Array, "... C"], kernel: Float[Array, "C N"]) -> Float[Array, "... N"]:
    """Returns `x @ kernel` in the dtype of x; x is rounded to the kernel's dtype."""
    return jnp.reshape(_product(x.reshape(-1, x.shape[-1]), kernel, False), (*x.shape[:-1], kernel.shape[1]))


def matmul_transposed(x: Float[Array, "... N"], kernel: Float[Array, "C N"]) -> Float[Array, "... C"]:
    """Returns `x @ kernel.T` in the dtype of x; x is rounded to the kernel's dtype."""
    return jnp.reshape(_product(x.reshape(-1, x.shape[-1]), kernel, True), (*x.shape[:-1], kernel.shape[0]))


def batched(a: Float[Array, "*batch M C"], b: Array, dtype: Any, transposed: bool = False) -> Array:
    """Returns `a @ b`, or `a @ b.T`, for each pair of matrices rounded to `dtype`, as float32 `[*batch, M, N]`."""
    lead = tuple(range(a.ndim - 2))
    axes = ((a.ndim - 1,), (b.ndim - 1 if transposed else b.ndim - 2,))
    return lax.dot_general(
        a.astype(dtype), b.astype(dtype), (axes, (lead, lead)), precision(dtype), preferred_element_type=jnp.float32
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, transposed: bool) -> Array:
    return _forward(x, kernel, transposed)


def _forward(x: Array, kernel: Array, transposed: bool) -> Array:
    return _dot(x.astype(kernel.dtype), kernel, (1, int(transposed)), x.dtype)


def _product_fwd(x: Any, kernel: Any, transposed: bool) -> tuple[Array, tuple[Array | None, Array, tuple | None]]:
    # A frozen kernel has no gradient, so x is not a residual; nor is the input of the first trained layer.
    kept = (x.value if kernel.perturbed else None, kernel.value, () if x.perturbed else None)
    return _forward(x.value, kernel.value, transposed), kept


def _product_bwd(transposed: bool, kept: tuple, g: Any) -> tuple[Array | None, Array | None]:
    x, kernel, wanted = kept
    if isinstance(g, SymbolicZero):
        return None, None
    low = g.astype(kernel.dtype)
    d_x = None if wanted is None else _dot(low, kernel, (1, int(not transposed)), g.dtype)
    if x is None:
        return d_x, None
    left, right = (low, x) if transposed else (x, low)
    return d_x, _dot(left.astype(kernel.dtype), right.astype(kernel.dtype), (0, 0), kernel.dtype)


_product.defvjp(_product_fwd, _product_bwd, symbolic_zeros=True)


def _dot(a: Array, b: Array, axes: tuple[int, int], dtype: Any) -> Array:
    """Contracts one axis of each matrix: two-dimensional, so that the compiler inserts no transposes."""
    contraction = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, contraction, precision(a.dtype), preferred_element_type=dtype)
