"""Attention masks: booleans shared by all layers, or key intervals for packed rows."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

# Masked logits: finite, so that a fully masked query does not give NaN, and far below any real logit.
MASKED = -1e30


class MaskPair(NamedTuple):
    """A mask or bias shared by all layers, with its transpose for their gradients; computed once, read contiguously."""

    rows: Array  # broadcasts to [*batch, K, G, T, S]
    columns: Array | None  # broadcasts to [*batch, K, S, G, T]; None only in gradients, which use the rows


@struct.dataclass
class Interval:
    """The keys that each query sees: columns `first` to `last`, empty if `first` is greater.

    Attention with such a mask runs as one kernel: `attention_pallas`, or `attention_cudnn` of causal masks. `sharder`
    splits the first one's call over a mesh; None means a single device. `causal`: each row is one segment, so that a
    query sees all keys up to its own.
    """

    first: Int[Array, "B T"]
    last: Int[Array, "B T"]
    sharder: Any = struct.field(pytree_node=False, default=None)
    kernel: str = struct.field(pytree_node=False, default="pallas")
    causal: bool = struct.field(pytree_node=False, default=False)


def mask_pair(mask: Array) -> MaskPair:
    return MaskPair(mask, columns_last(mask))


def shared_by_layers(mask: Array | Interval) -> MaskPair | Interval:
    return mask if isinstance(mask, Interval) else mask_pair(mask)


def rows_of(x: Array | MaskPair) -> Array:
    return x.rows if isinstance(x, MaskPair) else x


def columns_of(x: Array | MaskPair) -> Array:
    return x.columns if isinstance(x, MaskPair) and x.columns is not None else columns_last(rows_of(x))


def columns_last(x: Array) -> Array:
    """Transposes `[..., G, T, S]` to `[..., S, G, T]`, for the axes that are present."""
    return jnp.moveaxis(x.reshape((1,) * (3 - x.ndim) + x.shape), -1, -3)


def causal_mask(
    positions: Array, segment_ids: Array | None, window: int | None = None
) -> Bool[Array, "*batch 1 1 T T"]:
    """Returns True where a query (second to last axis) sees a token: same segment, not later, within the window.

    `positions` are columns `[T]`, or positions `[*batch, T]` if a sliding window counts them.
    """
    length = positions.shape[-1]
    columns = jnp.arange(length)
    mask = columns[:, None] >= columns[None, :]
    if segment_ids is not None:
        mask = mask & same_segment(segment_ids, segment_ids)
    if window is not None:
        mask = mask & (positions[..., :, None] - positions[..., None, :] < window)
    return mask[..., None, None, :, :]


def segment_mask(query_ids: Array, key_ids: Array) -> Bool[Array, "*batch 1 1 T S"]:
    """Returns True where a query sees a key: in the same segment."""
    return same_segment(query_ids, key_ids)[..., None, None, :, :]


def same_segment(query_ids: Array, key_ids: Array) -> Array:
    return query_ids[..., :, None] == key_ids[..., None, :]


def segment_positions(segment_ids: Array) -> Array:
    """Returns the position of each token in its segment, wherever the segment starts; padding is not counted."""
    first = jnp.argmax(same_segment(segment_ids, segment_ids), axis=-1)
    return jnp.arange(segment_ids.shape[-1]) - first


def segment_interval(query_ids: Int[Array, "B T"], key_ids: Int[Array, "B S"], sharder: Any = None) -> Interval:
    """Returns the contiguous keys of each query's segment. Queries with segment id 0 see nothing."""
    same = same_segment(query_ids, key_ids) & (query_ids > 0)[..., None]
    some, end = same.any(-1), key_ids.shape[-1] - 1
    first = jnp.where(some, jnp.argmax(same, axis=-1), end + 1)
    last = jnp.where(some, end - jnp.argmax(same[..., ::-1], axis=-1), -1)
    return Interval(first.astype(jnp.int32), last.astype(jnp.int32), sharder)


def causal_interval(
    segment_ids: Int[Array, "B T"], window: int | None = None, sharder: Any = None, kernel: str | None = "pallas"
) -> Interval:
    """Returns the keys of each query's segment up to the query, within the window: `causal_mask` as intervals."""
    whole = segment_interval(segment_ids, segment_ids, sharder)
    columns = jnp.arange(segment_ids.shape[-1], dtype=jnp.int32)
    first = whole.first if window is None else jnp.maximum(whole.first, columns - window + 1)
    return Interval(first, jnp.minimum(whole.last, columns), sharder, kernel or "pallas")


def rows_of_interval(seen: Interval, keys: int) -> Bool[Array, "B 1 1 T S"]:
    """Expands an interval to a boolean mask."""
    places = jnp.arange(keys)
    mask = (places >= seen.first[..., None]) & (places <= seen.last[..., None])
    return mask[:, None, None]
