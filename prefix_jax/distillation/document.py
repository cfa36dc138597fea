"""A document as a long prefix: its keys and values, read once, and the queries of texts that follow it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from prefix_jax.errors import UserError
from prefix_jax.models import Model
from prefix_jax.models.layers import INTERMEDIATES
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Past, Prefix, PrefixKV, length

# Sequences of a batch whose queries are read.
_ROWS = 4

Base = Mapping[str, Any]


def check(model_config: ModelConfig, tokens: int, room: int = 1) -> None:
    """Raises UserError unless a document of so many tokens can be a prefix of the model, with `room` for a text after.

    Its keys stay where they were read, and so must look alike from every later place: those of encoders, of ALiBi, and
    of sliding windows that are shorter than the document do not.
    """
    if model_config.is_encoder_decoder:
        raise UserError("a document becomes a prefix of decoder-only models alone; choose another --model")
    if model_config.alibi is not None:
        raise UserError(
            "in this model's attention a key's logit falls with its distance (ALiBi), which slots of a prefix do not "
            "have; choose a --model with rotary positions"
        )
    window, context = model_config.narrowest_window, model_config.context_length
    if window is not None and tokens >= window:
        raise UserError(
            f"the document has {tokens:,} tokens, and layers of this model see {window:,}, while a prefix is seen from "
            "everywhere; give a shorter document, or choose a --model without sliding windows"
        )
    if context is not None and tokens + room > context:
        raise UserError(
            f"the document has {tokens:,} tokens, and of this model's {context:,} positions a text after it needs "
            f"{room:,}; give a shorter document"
        )


def read(model: Model, base: Base, tokens: Int[np.ndarray, "n"], chunk: int = 256) -> Prefix:
    """Returns the model's keys and values for a document as a prefix of n slots in float32; positions go on after it.

    The document is read `chunk` tokens at a time over a cache, so that attention needs memory for `chunk` x n logits of
    one layer.

    Raises:
      UserError: the model cannot have such a prefix (see `check`).
    """
    count = len(tokens)
    check(model.model_config, count)
    chunk = min(chunk, count)
    whole = -(-count // chunk) * chunk
    padded = np.zeros(whole, np.int32)
    padded[:count] = tokens
    config = model.model_config
    # One row, as the cache of a batch of one sequence.
    shape = (config.layers, 1, config.kv_heads, whole, config.head_dim)
    cache = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
    for start in range(0, whole, chunk):
        cache = _read_chunk(model, base, cache, padded[None, start : start + chunk], np.int32(start))
    key, value = (part[:, 0, :, :count] for part in cache)
    return Prefix(decoder=PrefixKV(key, value), position_offset=jnp.int32(count))


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _read_chunk(
    model: Model, base: Base, cache: tuple[Array, Array], tokens: Int[Array, "1 chunk"], start: Int[Array, ""]
) -> tuple[Array, Array]:
    """Returns the cache with the keys and values of the tokens from position `start` on."""
    places = jnp.arange(cache[0].shape[3])
    past = Past(*cache, places < start, places)
    positions = start + jnp.arange(tokens.shape[1])
    _, own = model.apply(base, tokens, positions, past=(past,), method="hidden")
    put = lambda old, new: lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=3)
    return put(cache[0], own.key), put(cache[1], own.value)


def queries(
    model: Model, base: Base, document: Prefix, texts: Sequence[Sequence[int]], most: int
) -> Float[np.ndarray, "layers kv_heads M head_dim"]:
    """Returns queries of texts that follow the document, each on its own, times the scale of attention logits.

    Query heads that share keys are rows beside each other. At most `most` of a KV head are kept, evenly spaced.

    Args:
      document: what `read` returned.
      texts: token ids.
      most: M at most.
    """
    width = -(-max(map(len, texts)) // 32) * 32
    groups = model.model_config.heads // model.model_config.kv_heads
    every = max(1, -(-sum(map(len, texts)) * groups // most))
    found, seen = [], 0
    for start in range(0, len(texts), _ROWS):
        rows = np.zeros((_ROWS, width), np.int32)
        there = np.zeros((_ROWS, width), bool)
        for row, ids in enumerate(texts[start : start + _ROWS]):
            rows[row, : len(ids)], there[row, : len(ids)] = ids, True
        here = np.asarray(_queries(model, base, document, rows, there.astype(np.int32)))
        kept = np.moveaxis(here, (1, 4), (0, 1))[there]  # [tokens, layers, K, G, D]
        first = -seen % every
        seen += len(kept)
        found.append(kept[first::every])
    joined = np.concatenate(found)
    return np.moveaxis(joined, 0, 2).reshape(*joined.shape[1:3], -1, joined.shape[-1])[:, :, :most]


@partial(jax.jit, static_argnums=0)
def _queries(
    model: Model, base: Base, document: Prefix, tokens: Int[Array, "B T"], segments: Int[Array, "B T"]
) -> Float[Array, "layers B kv_heads G T head_dim"]:
    _, state = model.apply(
        base, tokens, segment_ids=segments, prefix=document, method="hidden", mutable=[INTERMEDIATES]
    )
    runs = state[INTERMEDIATES]["layers"]
    return jnp.concatenate([runs[start]["attention"]["queries"] for start in sorted(runs, key=int)])


def first(document: Prefix, slots: int) -> Prefix:
    """Returns the first `slots` tokens' keys and values, after which positions go on: the document cut off there."""
    return at(document, np.arange(slots)).replace(position_offset=jnp.int32(slots))  # type: ignore[attr-defined]


def spread(document: Prefix, slots: int, chunk: int = 8, kept: int = 1) -> Prefix:
    """Returns keys and values of chunks spread evenly over the document, of `slots` tokens together.

    The first `kept` tokens, to which attention goes that has nothing to look for (Xiao et al. 2023), are among them.
    Chunks that are spread start training better than the document's beginning (2508.17032).
    """
    count = length(document)
    places = set(range(min(kept, slots)))
    chunks = max(1, (slots - len(places)) // chunk)
    for begin in np.linspace(kept, max(kept, count - chunk), chunks).astype(int).tolist():
        places |= set(range(begin, min(begin + chunk, count)))
    rest = [place for place in range(count) if place not in places]
    missing = slots - len(places)
    if missing > 0:  # chunks that overlap, or do not divide the slots
        places |= {rest[i] for i in np.linspace(0, len(rest) - 1, missing).astype(int).tolist()}
    return at(document, np.sort(np.fromiter(places, np.int64))[:slots])


def at(document: Prefix, places: Int[np.ndarray, "P"]) -> Prefix:
    """Returns the keys and values of the document's tokens at these places; positions go on after the whole of it."""
    site = document.decoder
    assert site is not None, "a document is read by a decoder"
    return document.replace(  # type: ignore[attr-defined]
        decoder=PrefixKV(site.key[:, :, places], site.value[:, :, places])
    )
