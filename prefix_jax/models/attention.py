"""Attention over several KV sources (prefix, caches, new tokens) under one float32 softmax.

Queries are `[*batch, K, G, T, D]`: K key-value heads with G query heads each. The batch shape of a source is a leading
part of the query's (empty for a prefix, the batch for a prompt cache shared by beams), so nothing is tiled.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from prefix_jax.models.masks import MASKED, Interval, MaskPair, columns_last, columns_of, rows_of, rows_of_interval
from prefix_jax.models.matmul import batched, save_vjp_residual, transposed
from prefix_jax.models.model_config import Alibi, Rotary

# What JAX calls cuDNN's fused attention; its outputs are kept for the gradient.
FUSED_ATTENTION = "dot_product_attention_fwd_wrapper"


class KVSource(NamedTuple):
    """Keys and values, with a bias added to their logits and a mask; both broadcast to `[*batch, K, G, T, S]`."""

    key: Float[Array, "*source K S D"]
    value: Float[Array, "*source K S D"]
    bias: Float[Array, "..."] | MaskPair | None = None
    mask: Bool[Array, "..."] | MaskPair | Interval | None = None


def attend(
    query: Float[Array, "*batch K G T D"],
    sources: tuple[KVSource, ...],
    scale: float,
    compute_dtype: Any,
    cap: float | None = None,
) -> Float[Array, "*batch K G T D"]:
    """Computes softmax attention of the queries over all sources jointly, with logits and softmax in float32.

    With a soft cap, logits are `cap * tanh(logits / cap)` before biases and masks. It has no kernel.
    The operands of its products are rounded to `compute_dtype`. The gradient computes the logits again from kept
    maxima and sums (Dao et al. 2022, section 3.1): no weights are stored. A query that sees nothing has no gradient.
    Over a prefix, if any, and a source whose mask is an interval, all this is one kernel where it fits.
    """
    *others, own = sources
    if isinstance(own.mask, Interval):
        assert all(other.mask is None for other in others), "a kernel takes a prefix that all see"
        unfit = cap is not None or len(others) > 1
        unfit |= any(_by_query_head(other.bias) or other.key.ndim > 3 for other in others)
        out = None if unfit else _by_kernel(query, others[0] if others else None, own, scale, compute_dtype)
        return attend(query, (*others, _in_rows(own)), scale, compute_dtype, cap) if out is None else out
    masks = tuple(source.mask for source in sources)
    return _attend(
        query, tuple(source._replace(mask=None) for source in sources), masks, scale, jnp.dtype(compute_dtype), cap
    )


def _by_kernel(
    query: Float[Array, "*batch K G T D"], before: KVSource | None, own: KVSource, scale: float, compute_dtype: Any
) -> Float[Array, "*batch K G T D"] | None:
    """Computes `attend` as one kernel, over a prefix and the source with the interval; None where it does not fit."""
    seen: Any = own.mask
    prefix = None if before is None else (before.key, before.value, _rows_or_none(before.bias))
    if seen.kernel == "cudnn":
        from prefix_jax.models import attention_cudnn

        biased = prefix is not None and prefix[2] is not None
        if own.bias is not None or not attention_cudnn.fits(query, biased, compute_dtype):
            return None
        return attention_cudnn.attend(query, own.key, own.value, prefix, seen, scale, compute_dtype).astype(query.dtype)
    from prefix_jax.models import attention_pallas  # imported lazily: slow to import, rarely needed

    slots, bias = 0 if before is None else before.key.shape[-2], _rows_or_none(own.bias)
    if not attention_pallas.fits(query, own.key, slots, bias is not None, compute_dtype):
        return None
    return attention_pallas.attend(query, own.key, own.value, prefix, bias, seen, scale, compute_dtype)


def _in_rows(source: KVSource) -> Any:
    """Returns the source with its interval, if any, expanded to a boolean mask."""
    if not isinstance(source.mask, Interval):
        return source
    return source._replace(mask=rows_of_interval(source.mask, source.key.shape[-2]))


def _by_query_head(bias: Any) -> bool:
    """Returns whether query heads that share keys have biases of their own, as attention sinks have."""
    return bias is not None and rows_of(bias).shape[-3] > 1


def _rows_or_none(bias: Array | MaskPair | None) -> Array | None:
    return None if bias is None else rows_of(bias)


def attention_weights(
    query: Float[Array, "*batch K G T D"], sources: tuple[KVSource, ...], scale: float, cap: float | None = None
) -> Float[Array, "*batch K G T S"]:
    """Returns the attention weights of each query over the keys of all sources, concatenated; they sum to 1."""
    query = query * jnp.asarray(scale, query.dtype)
    logits = [_logits(query, s._replace(mask=None), s.mask, jnp.float32, cap) for s in map(_in_rows, sources)]
    shape = jnp.broadcast_shapes(*(logit.shape[:-1] for logit in logits))
    return jax.nn.softmax(jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in logits], -1), -1)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _attend(
    query: Array, sources: tuple[KVSource, ...], masks: tuple, scale: float, compute_dtype: Any, cap: float | None
) -> Array:
    return _attended(query, sources, masks, scale, compute_dtype, cap)[0]


def _attended(
    query: Array, sources: tuple[KVSource, ...], masks: tuple, scale: float, compute_dtype: Any, cap: float | None
) -> tuple[Array, Array, Array]:
    """Returns the output, and the maximum and sum of each query's exponentials, `[*batch, K, G, T, 1]`."""
    query = query * jnp.asarray(scale, query.dtype)
    logits = [_logits(query, source, mask, compute_dtype, cap) for source, mask in zip(sources, masks, strict=True)]
    top = logits[0].max(-1, keepdims=True)
    for more in logits[1:]:
        top = jnp.maximum(top, more.max(-1, keepdims=True))
    weights = [jnp.exp(logit - top) for logit in logits]
    total = sum(w.sum(-1, keepdims=True) for w in weights)
    mixed = sum(_mixed(w, source, compute_dtype) for w, source in zip(weights, sources, strict=True))
    return jnp.asarray(mixed / total).astype(query.dtype), top, jnp.asarray(total)


def _logits(
    query: Array, source: KVSource, mask: Array | MaskPair | None, compute_dtype: Any, cap: float | None
) -> Float[Array, "*batch K G T S"]:
    own = source.key.ndim - 3
    logits = _unmerged(batched(_merged(query, own), source.key, compute_dtype, transposed=True), query.shape, own)
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    if source.bias is not None:
        logits = logits + rows_of(source.bias)
    return logits if mask is None else jnp.where(rows_of(mask), logits, MASKED)


def _mixed(weights: Array, source: KVSource, compute_dtype: Any) -> Float[Array, "*batch K G T D"]:
    own = source.value.ndim - 3
    return _unmerged(
        batched(_merged(weights.astype(compute_dtype), own), source.value, compute_dtype), weights.shape, own
    )


def _attend_fwd(
    query: Array, sources: tuple[KVSource, ...], masks: tuple, scale: float, compute_dtype: Any, cap: float | None
) -> tuple[Array, tuple]:
    out, top, total = _attended(query, sources, masks, scale, compute_dtype, cap)
    out = save_vjp_residual(out, compute_dtype)
    return out, (query, sources, masks, out, save_vjp_residual(top), save_vjp_residual(total))


def _attend_bwd(
    scale: float, compute_dtype: Any, cap: float | None, kept: tuple, g: Array
) -> tuple[Array, tuple[KVSource, ...], None]:
    query, sources, masks, out, top, total = kept
    scaled = query * jnp.asarray(scale, query.dtype)
    mean = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    share = jnp.where(top > MASKED / 2, 1 / total, 0.0)
    statistics = tuple(columns_last(x) for x in (top, share, mean))
    d_query, d_sources = jnp.zeros(query.shape, jnp.float32), []
    for source, mask in zip(sources, masks, strict=True):
        part, d_source = _source_gradient(scaled, source, mask, statistics, g, compute_dtype, cap)
        d_query += part
        d_sources.append(d_source)
    return (d_query * scale).astype(query.dtype), tuple(d_sources), None


def _source_gradient(
    query: Array,
    source: KVSource,
    mask: Array | MaskPair | None,
    statistics: tuple[Array, ...],
    g: Array,
    compute_dtype: Any,
    cap: float | None,
) -> tuple[Array, KVSource]:
    """Returns a source's contribution to the gradient of the scaled query, and the gradients of the source.

    Weights are transposed here, `[*batch, K, S, G, T]`, so that only key-sized arrays are ever transposed.
    """
    own, (top, share, mean) = source.key.ndim - 3, statistics
    query_rows, g_rows = _merged(query.astype(compute_dtype), own), _merged(g.astype(compute_dtype), own)
    logits = _unmerged_columns(batched(source.key, query_rows, compute_dtype, transposed=True), query.shape, own)
    bent = None if cap is None else jnp.tanh(logits / cap)
    if cap is not None and bent is not None:
        logits = cap * bent
    if source.bias is not None:
        logits = logits + columns_of(source.bias)
    if mask is not None:
        logits = jnp.where(columns_of(mask), logits, MASKED)
    weights = jnp.exp(logits - top) * share
    d_weights = _unmerged_columns(batched(source.value, g_rows, compute_dtype, transposed=True), query.shape, own)
    d_logits = weights * (d_weights - mean)
    d_product = d_logits if bent is None else d_logits * (1 - bent * bent)
    d_rows = _merged_columns(d_product.astype(compute_dtype), own)
    # Behind barriers, or the compiler would transpose the gradient of the logits in place of the keys.
    key = lax.optimization_barrier(transposed(source.key, compute_dtype))
    d_query = lax.optimization_barrier(batched(key, d_rows, compute_dtype))
    d_value = batched(_merged_columns(weights.astype(compute_dtype), own), g_rows, compute_dtype)
    d_key = batched(d_rows, query_rows, compute_dtype)
    d_source = KVSource(
        d_key.astype(source.key.dtype), d_value.astype(source.value.dtype), _bias_gradient(d_logits, source.bias)
    )
    return _unmerged(jnp.swapaxes(d_query, -1, -2), query.shape, own), d_source


def _bias_gradient(d_logits: Float[Array, "*batch K S G T"], bias: Any) -> Any:
    if bias is None:
        return None
    d_rows = _like(jnp.moveaxis(d_logits, -3, -1), rows_of(bias))
    return MaskPair(d_rows, None) if isinstance(bias, MaskPair) else d_rows


_attend.defvjp(_attend_fwd, _attend_bwd)


def _merged(x: Float[Array, "*batch K G T X"], own: int) -> Float[Array, "*own K rows X"]:
    """Flattens the axes over which a source is shared into rows, one matrix per source head."""
    x = jnp.moveaxis(x, x.ndim - 4, own)
    return x.reshape(*x.shape[: own + 1], -1, x.shape[-1])


def _unmerged(x: Float[Array, "*own K rows X"], shape: tuple[int, ...], own: int) -> Float[Array, "*batch K G T X"]:
    """Inverts `_merged` for queries of the given shape."""
    inner = (*shape[:own], shape[-4], *shape[own:-4], *shape[-3:-1], x.shape[-1])
    return jnp.moveaxis(x.reshape(inner), own, len(inner) - 4)


def _merged_columns(x: Float[Array, "*batch K S G T"], own: int) -> Float[Array, "*own K S rows"]:
    x = jnp.moveaxis(x, (x.ndim - 4, x.ndim - 3), (own, own + 1))
    return x.reshape(*x.shape[: own + 2], -1)


def _unmerged_columns(x: Array, shape: tuple[int, ...], own: int) -> Float[Array, "*batch K S G T"]:
    inner = (*x.shape[: own + 2], *shape[own:-4], *shape[-3:-1])
    return jnp.moveaxis(x.reshape(inner), (own, own + 1), (len(inner) - 4, len(inner) - 3))


def _like(x: Array, small: Array) -> Array:
    """Sums `x` over the axes along which `small` was broadcast to its shape."""
    x = x.sum(tuple(range(x.ndim - small.ndim)))
    axes = tuple(axis for axis, size in enumerate(small.shape) if size == 1 and x.shape[axis] != 1)
    return x.sum(axes, keepdims=True).astype(small.dtype)


def rotary_angles(positions: Array, head_dim: int, rotary: Rotary, amplified: bool = True) -> tuple[Array, Array]:
    """Returns cosines and sines `[..., T, dims / 2]` in float32 (Su et al. 2021).

    Some scalings multiply them by a number too, so that logits grow with it; without `amplified` they only rotate.
    """
    dims = rotary.dims or head_dim
    frequency = 1.0 / rotary.base ** (jnp.arange(0, dims, 2, dtype=jnp.float32) / dims)
    if rotary.scaling is not None:
        frequency = _scaled(frequency, rotary.scaling, rotary.base)
    angle = positions[..., None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if not amplified or rotary.scaling is None or rotary.scaling[0] not in ("yarn", "longrope"):
        return cos, sin
    return cos * rotary.scaling[1], sin * rotary.scaling[1]


def alibi_bias(positions: Int[Array, "*batch T"], alibi: Alibi, kv_heads: int) -> Float[Array, "*batch K G T"]:
    """Returns the bias of the key at each position, up to a constant for each query, to which softmax is invariant."""
    slopes = jnp.asarray(alibi.slopes, jnp.float32).reshape(kv_heads, -1, 1)
    places = positions.astype(jnp.float32)[..., None, None, :]
    if not alibi.rounded:
        return slopes * places * alibi.scale
    rounded = partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=7)
    return rounded(rounded(slopes) * rounded(places)) * alibi.scale


def _scaled(frequency: Array, scaling: tuple, base: float) -> Array:
    kind, factor, *rest = scaling
    if kind == "linear":
        return frequency / factor
    if kind == "longrope":
        return frequency / jnp.asarray(rest, jnp.float32)
    if kind == "yarn":
        return _yarn(frequency, base, *rest)
    low, high, original = rest  # Llama 3.1: long waves are stretched, short ones kept, with a ramp between
    wave = 2 * jnp.pi / frequency
    smooth = jnp.clip((original / wave - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * frequency / factor + smooth * frequency


def _yarn(
    frequency: Array, base: float, factor: float, fast: float, slow: float, original: float, whole: bool
) -> Array:
    """Stretches the waves with few turns in the original context, with a ramp between (Peng et al. 2023)."""
    dims = 2 * len(frequency)
    ends = [dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (fast, slow)]
    low, high = (math.floor(ends[0]), math.ceil(ends[1])) if whole else ends
    low, high = max(low, 0), min(high, dims - 1)
    ramp = jnp.clip((jnp.arange(dims // 2, dtype=jnp.float32) - low) / ((high - low) or 0.001), 0.0, 1.0)
    return frequency / factor * ramp + frequency * (1 - ramp)


def rotate(
    x: Float[Array, "... T D"], angles: tuple[Array, Array], interleaved: bool = False
) -> Float[Array, "... T D"]:
    """Applies rotary position embedding to the leading features of a head, two for each angle.

    `angles` broadcast against the leading axes of `x`. A pair is two adjacent features if `interleaved`, else one
    feature from each half.
    """
    cos, sin = angles
    wide, dims = x.astype(jnp.float32), 2 * cos.shape[-1]
    inner, rest = wide[..., :dims], wide[..., dims:]
    first, second = (inner[..., ::2], inner[..., 1::2]) if interleaved else jnp.split(inner, 2, axis=-1)
    pair = first * cos - second * sin, second * cos + first * sin
    turned = jnp.stack(pair, axis=-1).reshape(inner.shape) if interleaved else jnp.concatenate(pair, axis=-1)
    return (jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned).astype(x.dtype)


def attention_scale(head_dim: int) -> float:
    return head_dim**-0.5
