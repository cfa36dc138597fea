"""Attention over a prefix and tokens as cuDNN's fused kernel, on NVIDIA GPUs: logits never reach the GPU's memory.

The slots of the prefix are keys in front of the tokens. Rows of one segment each need no array as a mask: with as many
empty queries in front attention is causal, and the kernel skips what no query sees. Other rows (packed, or with a
window) have one. The bias of a slot is a product: some more features of its key, times a constant in every query.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from prefix_jax.models.masks import Interval, rows_of_interval

# A head's widths that the kernel takes on every generation of GPUs from Ampere on.
_WIDEST, _FEATURES = 128, 8
# The kernel's gradient takes even numbers of queries and keys; with a mask, multiples of eight keys.
_EVEN, _KEYS = 2, 8
# The bias of a slot is the sum of so many bfloat16 numbers, which hold the digits of a float32 number.
_PARTS = 3
_LOWEST = -1e4  # a closed slot
_IMPLEMENTATION = "cudnn"


def fits(query: Float[Array, "*batch K G T D"], biased: bool, compute_dtype: Any) -> bool:
    """Returns whether the kernel takes such queries; `biased`: whether the slots of the prefix have biases."""
    width = query.shape[-1] + (_FEATURES if biased else 0)
    half = jnp.dtype(compute_dtype) in (jnp.bfloat16, jnp.float16)
    return half and query.ndim == 5 and width % _FEATURES == 0 and width <= _WIDEST


def attend(
    query: Float[Array, "B K G T D"],
    key: Float[Array, "B K T D"],
    value: Float[Array, "B K T D"],
    prefix: tuple[Array, Array, Array | None] | None,
    seen: Interval,
    scale: float,
    compute_dtype: Any,
) -> Float[Array, "B K G T D"]:
    """Computes softmax attention over a prefix that all queries see and each query's interval of keys.

    `prefix` is its keys and values `[K, P, D]`, and the bias of its slots' logits, `[K, 1, 1, P]` or None. Operands and
    weights have the dtype `compute_dtype`; logits, softmax and sums are float32. The output of a query without a
    segment is not defined. If `seen.causal`, the interval itself is not read.
    """
    batch, kv_heads, groups, length, width = query.shape
    slots = 0 if prefix is None else prefix[0].shape[-2]
    heads_last = partial(jnp.moveaxis, source=-2, destination=1)
    query = heads_last(query.reshape(batch, kv_heads * groups, length, width)).astype(compute_dtype)
    key, value = (heads_last(x).astype(compute_dtype) for x in (key, value))
    if prefix is not None:
        query, key, value = _with_slots(query, key, value, prefix, scale, compute_dtype)
    out = (_causal if seen.causal else _masked)(slots, scale, query, key, value, seen)
    out = jnp.moveaxis(out, 1, -2).reshape(batch, kv_heads, groups, length, -1)
    return out[..., :width]


def _with_slots(
    query: Float[Array, "B T N D"],
    key: Float[Array, "B T K D"],
    value: Float[Array, "B T K D"],
    prefix: tuple[Array, Array, Array | None],
    scale: float,
    dtype: Any,
) -> tuple[Array, Array, Array]:
    """Returns the queries, and keys and values with those of the prefix in front."""
    prefix_key, prefix_value, bias = prefix
    kv_heads, slots, _ = prefix_key.shape
    if bias is not None:
        constant = jnp.full((*query.shape[:-1], _PARTS), 1 / scale, dtype)
        query = _wider(jnp.concatenate([query, constant], -1), _FEATURES - _PARTS)
        bias = jnp.broadcast_to(jnp.maximum(bias, _LOWEST), (kv_heads, 1, 1, slots)).reshape(kv_heads, slots)
        # In units of what the constant is once rounded.
        parts = _parts(bias / (scale * jnp.asarray(1 / scale, dtype).astype(jnp.float32)), dtype)
        prefix_key = _wider(jnp.concatenate([prefix_key.astype(dtype), parts], -1), _FEATURES - _PARTS)
        prefix_value, key, value = (_wider(x, _FEATURES) for x in (prefix_value, key, value))

    def joined(front: Array, rest: Array) -> Array:
        front = jnp.swapaxes(front, 0, 1).astype(dtype)
        return jnp.concatenate([jnp.broadcast_to(front, (rest.shape[0], *front.shape)), rest], axis=1)

    return query, joined(prefix_key, key), joined(prefix_value, value)


def _wider(x: Array, features: int) -> Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, features),))


def _parts(x: Float[Array, "K P"], dtype: Any) -> Float[Array, "K P parts"]:
    """Returns numbers of a short type whose sum is `x`; the first one has its gradient."""
    parts, rest = [], x
    for _ in range(_PARTS):
        parts.append(rest.astype(dtype))
        rest = lax.stop_gradient(rest - parts[-1].astype(jnp.float32))
    return jnp.stack(parts, axis=-1)


def _causal(slots: int, scale: float, query: Array, key: Array, value: Array, seen: Interval) -> Array:
    length = query.shape[1]
    more = -(slots + length) % _EVEN  # keys that no query sees
    query = jnp.pad(query, ((0, 0), (slots, more), (0, 0), (0, 0)))
    key, value = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (key, value))
    out = jax.nn.dot_product_attention(query, key, value, scale=scale, is_causal=True, implementation=_IMPLEMENTATION)
    return out[:, slots : slots + length]


def _masked(slots: int, scale: float, query: Array, key: Array, value: Array, seen: Interval) -> Array:
    length, keys = query.shape[1], key.shape[1]
    more_queries, more_keys = length % _EVEN, -keys % _KEYS
    mask = jnp.pad(_slots_and(seen, slots, length), ((0, 0), (0, 0), (0, more_queries), (0, more_keys)))
    query = jnp.pad(query, ((0, 0), (0, more_queries), (0, 0), (0, 0)))
    key, value = (jnp.pad(x, ((0, 0), (0, more_keys), (0, 0), (0, 0))) for x in (key, value))
    out = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale, implementation=_IMPLEMENTATION)
    return out[:, :length]


def _slots_and(seen: Interval, slots: int, length: int) -> Bool[Array, "B 1 T S"]:
    rows = rows_of_interval(seen, length)[:, :, 0]
    return jnp.pad(rows, ((0, 0), (0, 0), (0, 0), (slots, 0)), constant_values=True)
