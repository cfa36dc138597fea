"""Inputs of a layer besides its hidden states: masks, biases, rotary angles, prefix, and KV caches."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from prefix_jax.models.attention import KVSource, alibi_bias
from prefix_jax.models.masks import MaskPair, mask_pair, rows_of
from prefix_jax.models.model_config import Alibi
from prefix_jax.models.prefix import KeyValues, Past, Prefix, offset


class LayerContext(NamedTuple):
    """The context of one layer. The first fields are computed once per kind of layer; a stack fills in the rest.

    Attributes:
      mask: which of the call's own tokens each query sees.
      bias: position bias added to the logits of the call's own tokens.
      rotary: cosines and sines of the token positions, `[..., T, dims / 2]`; None: keys are not rotated.
      prefix_mask: which queries see the prefix; None: all.
      prefix_bias: position bias added to the logits of the prefix's slots.
      cache_masks: for each cache, which of its keys each query sees.
      cache_biases: for each cache, the bias added to the logits of its keys.
      cross_mask: which encoder states each query sees.
      memory: encoder states; unused if `cross_cache` has their keys and values.
      prefix: this layer's prefix, if any.
      caches: this layer's keys and values of earlier tokens.
      cross_prefix: this layer's prefix for cross-attention, if any.
      cross_cache: this layer's keys and values of the encoder states.
    """

    mask: Any  # MaskPair | Interval
    bias: MaskPair | None = None
    rotary: tuple[Array, Array] | None = None
    prefix_mask: MaskPair | None = None
    prefix_bias: MaskPair | None = None
    cache_masks: tuple[Array, ...] = ()
    cache_biases: tuple[Array | None, ...] = ()
    cross_mask: Any = None  # MaskPair | Interval | None
    memory: Array | None = None
    prefix: KVSource | None = None
    caches: tuple[KeyValues, ...] = ()
    cross_prefix: KVSource | None = None
    cross_cache: KeyValues | None = None

    def sources(self, own: KeyValues) -> tuple[KVSource, ...]:
        """Returns the sources of self-attention; the call's own keys and values come last."""
        prefix = () if self.prefix is None else (self._with_bias(self.prefix._replace(mask=self.prefix_mask)),)
        caches = zip(self.caches, self.cache_biases, self.cache_masks, strict=True)
        past = tuple(KVSource(cache.key, cache.value, bias, mask) for cache, bias, mask in caches)
        return (*prefix, *past, KVSource(own.key, own.value, self.bias, self.mask))

    def _with_bias(self, prefix: KVSource) -> KVSource:
        if self.prefix_bias is None:
            return prefix
        own = prefix.bias
        return prefix._replace(bias=self.prefix_bias if own is None else rows_of(own) + self.prefix_bias.rows)

    def cross_sources(self, memory: KeyValues) -> tuple[KVSource, ...]:
        """Returns the sources of cross-attention; the encoder's keys and values come last."""
        prefix = () if self.cross_prefix is None else (self.cross_prefix,)
        return (*prefix, KVSource(memory.key, memory.value, None, self.cross_mask))


def window_masks(past: tuple[Past, ...], positions: Array, window: int | None) -> tuple[Array, ...]:
    """Returns cache masks for a sliding window, which counts tokens; `positions` are those of the queries."""
    if window is None:
        return tuple(cache.mask for cache in past)
    return tuple(cache.mask & _near(positions, cache.positions, window) for cache in past)


def _near(queries: Array, keys: Array, window: int) -> Array:
    """Returns whether a key is fewer than `window` tokens before a query, `[*batch, 1, 1, T, S]`."""
    return (queries[..., :, None] - keys[..., None, :] < window)[..., None, None, :, :]


class Biases(NamedTuple):
    """Position biases of the keys of each source."""

    own: MaskPair | None = None
    prefix: MaskPair | None = None
    caches: tuple[Array | None, ...] = ()


def linear_biases(
    alibi: Alibi | None, kv_heads: int, positions: Array, prefix: Prefix | None, past: tuple[Past, ...]
) -> Biases:
    """Returns ALiBi's biases, which grow with a key's position; `positions` are those of the queries.

    Slots with distances are at the first positions. Others have the bias of the query's own position: they are as near
    to every query as its own token.
    """
    if alibi is None:
        return Biases(caches=(None,) * len(past))
    placed = prefix is not None and prefix.distances
    before = offset(prefix) if placed else 0

    def bias(positions: Array) -> Array:
        return alibi_bias(positions, alibi, kv_heads)

    own, slots = bias(positions + before), None
    if prefix is not None and prefix.decoder is not None:
        slots = bias(jnp.arange(prefix.decoder.key.shape[-2]))[..., None, :] if placed else own[..., None]
    caches = tuple(bias(cache.positions + before)[..., None, :] for cache in past)
    return Biases(mask_pair(own[..., None, :]), None if slots is None else mask_pair(slots), caches)
