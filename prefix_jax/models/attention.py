"""Attention over sources: prefix, caches and fresh tokens under one float32 softmax.

Queries are `[*batch, K, G, T, D]`: K key-value heads, G query heads for each. A source has its own batch shape, a
beginning of
the query's (none for a prefix, the batch for a prompt's cache that beams share): nothing is tiled.
"""

import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float

# Masked logits: finite, so that a query that sees nothing has no NaN, and far below any real logit.
MASKED = -1e30


@struct.dataclass
class Source:
    """Keys and values with what is added to their logits; `bias` and `mask` broadcast to `[*batch, K, G, T, S]`."""

    key: Float[Array, "*source K S D"]
    value: Float[Array, "*source K S D"]
    bias: Float[Array, "..."] | None = None
    mask: Bool[Array, "..."] | None = None


def attend(
    query: Float[Array, "*batch K G T D"], sources: tuple[Source, ...], scale: float
) -> Float[Array, "*batch K G T D"]:
    """Softmax attention of the queries over all sources together, logits and softmax in float32."""
    query = query * jnp.asarray(scale, query.dtype)
    logits = [_logits(query, source) for source in sources]
    top = logits[0].max(-1, keepdims=True)
    for more in logits[1:]:
        top = jnp.maximum(top, more.max(-1, keepdims=True))
    # Softmax does not depend on the shift, so neither does the gradient.
    weights = [jnp.exp(logit - lax.stop_gradient(top)) for logit in logits]
    total = sum(w.sum(-1, keepdims=True) for w in weights)
    mixed = sum(_mix(w, source) for w, source in zip(weights, sources, strict=True))
    return jnp.asarray(mixed / total).astype(query.dtype)


def _letters(query: Array, key: Array) -> tuple[str, str]:
    batch = "abc"[: query.ndim - 4]
    return batch, batch[: key.ndim - 3]


def _logits(query: Array, source: Source) -> Array:
    batch, own = _letters(query, source.key)
    key = source.key.astype(query.dtype)
    logits = jnp.einsum(f"{batch}kgtd,{own}ksd->{batch}kgts", query, key, preferred_element_type=jnp.float32)
    if source.bias is not None:
        logits = logits + source.bias
    return logits if source.mask is None else jnp.where(source.mask, logits, MASKED)


def _mix(weights: Array, source: Source) -> Array:
    batch, own = _letters(weights, source.value)
    dtype = source.value.dtype if source.value.dtype != jnp.float32 else weights.dtype
    return jnp.einsum(
        f"{batch}kgts,{own}ksd->{batch}kgtd",
        weights.astype(dtype),
        source.value,
        preferred_element_type=jnp.float32,
    )


def causal_mask(
    positions: Array, segment_ids: Array | None, window: int | None = None
) -> Bool[Array, "*batch 1 1 T T"]:
    """True where a query (second to last axis) may see a token: of its own segment, not later, within the window.

    `positions` are columns `[T]`, or positions `[*batch, T]` where a sliding window counts them.
    """
    length = positions.shape[-1]
    columns = jnp.arange(length)
    mask = columns[:, None] >= columns[None, :]
    if segment_ids is not None:
        mask = mask & same_segment(segment_ids, segment_ids)
    if window is not None:
        mask = mask & (positions[..., :, None] - positions[..., None, :] < window)
    return mask[..., None, None, :, :]


def same_segment(query_ids: Array, key_ids: Array) -> Array:
    return query_ids[..., :, None] == key_ids[..., None, :]


def segment_positions(segment_ids: Array) -> Array:
    """Returns each token's position in its own segment, wherever the segment starts: padding is not counted."""
    first = jnp.argmax(same_segment(segment_ids, segment_ids), axis=-1)
    return jnp.arange(segment_ids.shape[-1]) - first


def rotary_angles(positions: Array, head_dim: int, base: float, scaling: tuple | None) -> tuple[Array, Array]:
    """Returns cosines and sines `[..., T, head_dim / 2]` in float32 (Su et al. 2021, half-rotation form)."""
    frequency = 1.0 / base ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequency = _scaled(frequency, scaling)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def _scaled(frequency: Array, scaling: tuple) -> Array:
    kind, factor, *rest = scaling
    if kind == "linear":
        return frequency / factor
    low, high, original = rest  # Llama 3.1: long waves are stretched, short ones kept, with a ramp between
    wave = 2 * jnp.pi / frequency
    smooth = jnp.clip((original / wave - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * frequency / factor + smooth * frequency


def rotate(x: Float[Array, "... T D"], angles: tuple[Array, Array]) -> Float[Array, "... T D"]:
    """Applies rotary position embedding; `angles` broadcast against the leading axes of `x`."""
    cos, sin = angles
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def attention_scale(head_dim: int) -> float:
    return head_dim**-0.5


__all__ = [
    "MASKED", "Source", "attend", "attention_scale", "causal_mask", "rotary_angles", "rotate", "same_segment",
    "segment_positions",
]  # fmt: skip
