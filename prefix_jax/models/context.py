"""Inputs of a layer besides its hidden states: masks, biases, rotary angles, prefix, and KV caches."""

from typing import Any, NamedTuple

from jaxtyping import Array

from prefix_jax.models.attention import KVSource
from prefix_jax.models.masks import MaskPair
from prefix_jax.models.prefix import KeyValues, Past


class LayerContext(NamedTuple):
    """The context of one layer. The first fields are computed once per kind of layer; a stack fills in the rest.

    Attributes:
      mask: which of the call's own tokens each query sees.
      bias: relative position bias added to the logits of the call's own tokens.
      rotary: cosines and sines of the token positions, `[..., T, dims / 2]`; None: keys are not rotated.
      prefix_mask: which queries see the prefix; None: all.
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
        prefix = () if self.prefix is None else (self.prefix._replace(mask=self.prefix_mask),)
        caches = zip(self.caches, self.cache_biases, self.cache_masks, strict=True)
        past = tuple(KVSource(cache.key, cache.value, bias, mask) for cache, bias, mask in caches)
        return (*prefix, *past, KVSource(own.key, own.value, self.bias, self.mask))

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
