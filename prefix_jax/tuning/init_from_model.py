"""The model's own keys and values for given tokens: what a prefix starts from."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from prefix_jax.models import Model
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import KeyValues


def site_key_values(
    model: Model, base: Mapping[str, Any], tokens: Int[Array, "N T"], positions: Int[Array, "N T"]
) -> dict[str, KeyValues]:
    """Returns for each site the keys and values `[layers, N, kv_heads, T, head_dim]` of N separate sequences, in
    float32.
    """
    if not model.model_config.is_encoder_decoder:
        _, own = model.apply(base, tokens, positions, method="hidden")
        return {"decoder": _float32(own)}
    everywhere = jnp.ones_like(tokens)
    memory, encoder = model.apply(base, tokens, everywhere, method="encode_key_values")
    cross = model.apply(base, memory, method="cross_key_values")
    _, decoder = model.apply(base, tokens, jnp.arange(tokens.shape[1]), cross, everywhere == 1, method="decode")
    return {"encoder": _float32(encoder), "decoder": _float32(decoder), "cross": _float32(cross)}


def frequent_words(key: Array, count: int, model_config: ModelConfig) -> Int[Array, "count"]:
    """Draws token ids from the frequent part of the vocabulary, each by its own key.

    Byte-pair and unigram vocabularies are ordered by frequency; the first hundreds are bytes and marks.
    """
    first, last = min(500, model_config.vocab_size // 4), min(8000, model_config.vocab_size)

    def draw(slot: Array) -> Array:
        return jax.random.randint(jax.random.fold_in(key, slot), (), first, last)

    return jax.vmap(draw)(jnp.arange(count))


def cycled(words: Sequence[int], count: int) -> Int[Array, "count"]:
    """Returns the words, repeated or cut to `count`."""
    return jnp.asarray([words[i % len(words)] for i in range(count)], jnp.int32)


def _float32(key_values: KeyValues) -> KeyValues:
    return KeyValues(*(leaf.astype(jnp.float32) for leaf in key_values))
