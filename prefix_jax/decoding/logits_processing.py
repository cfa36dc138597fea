"""Logits processing and token selection: banned tokens, truncation before sampling, and the best candidates."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from prefix_jax.decoding.generation_config import GenerationConfig, Limits, end_ids
from prefix_jax.decoding.kv_cache import Prompt
from prefix_jax.models import ModelConfig

# Chunk size of a two-stage top-k; top-k and argmax over a whole vocabulary are slow on CPUs.
CHUNK = 128


def allowed(
    scores: Float[Array, "B N V"],
    options: GenerationConfig,
    model_config: ModelConfig,
    prompt: Prompt,
    tokens: Int[Array, "B N T"],
    index: Array,
    limits: Limits | None = None,
) -> Float[Array, "B N V"]:
    """Returns the scores of new token number `index`, with -inf for tokens that the options ban.

    `tokens` are the new tokens of every beam, the first `index` of which are valid. `limits` are by default those of
    the options.
    """
    least, most, _ = limits or options.limits
    # Masks over the vocabulary rather than scatters, which would copy the logits. In transformers' order.
    vocab_size = scores.shape[-1]
    if options.no_repeat_ngram or options.banned_sequences:
        history, length = _history(prompt, tokens, index)
        if options.no_repeat_ngram:
            scores = jnp.where(repeating(history, length, options.no_repeat_ngram, vocab_size), -jnp.inf, scores)
        if options.banned_sequences:
            banned = completing(history, length, options.banned_sequences, vocab_size)
            scores = jnp.where(banned, -jnp.inf, scores)
    if isinstance(least, Array) or least:
        end = ends(jnp.arange(vocab_size), options, model_config)
        scores = jnp.where(end & (index < least), -jnp.inf, scores)
    if options.forced_bos is not None:
        scores = jnp.where(index == 0, only((options.forced_bos,), vocab_size), scores)
    if options.forced_eos:
        scores = jnp.where(index == most - 1, only(options.forced_eos, vocab_size), scores)
    if options.banned_tokens:
        scores = jnp.where(among(options.banned_tokens, vocab_size), -jnp.inf, scores)
    return scores


def among(ids: Sequence[int], vocab_size: int) -> np.ndarray:
    """Returns which tokens are some of them, `[vocab_size]`."""
    mask = np.zeros(vocab_size, bool)
    mask[list(ids)] = True
    return mask


def only(ids: Sequence[int], vocab_size: int) -> np.ndarray:
    """Returns the scores that force one of some tokens."""
    return np.where(among(ids, vocab_size), np.float32(0), np.float32(-np.inf))


def normaliser(logits: Float[Array, "*rows V"]) -> Float[Array, "*rows 1"]:
    """Returns the log-sum-exp; NaN if it is not finite, which then propagates to the scores."""
    found = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return jnp.where(jnp.isfinite(found), found, jnp.nan)


def ends(tokens: Int[Array, "*any"], options: GenerationConfig, model_config: ModelConfig) -> Bool[Array, "*any"]:
    """Returns whether each token is an end token."""
    return (tokens[..., None] == jnp.array(end_ids(options, model_config))).any(-1)


def _history(prompt: Prompt, tokens: Array, index: Array) -> tuple[Int[Array, "B N W"], Int[Array, "B"]]:
    """Returns each beam's prompt and new tokens, contiguous, and their number."""
    batch, beams, steps = tokens.shape
    width = prompt.tokens.shape[1]
    at = jnp.arange(width + steps) - prompt.lengths[:, None]
    old = jnp.broadcast_to(jnp.pad(prompt.tokens, ((0, 0), (0, steps)))[:, None], (batch, beams, width + steps))
    place = jnp.broadcast_to(jnp.clip(at, 0, steps - 1)[:, None], old.shape)
    new = jnp.take_along_axis(tokens, place, axis=-1)
    return jnp.where((at >= 0)[:, None], new, old), prompt.lengths + index


def repeating(
    history: Int[Array, "B N W"], length: Int[Array, "B"], ngram: int, vocab_size: int
) -> Bool[Array, "B N V"]:
    """Returns True for tokens that would repeat an n-gram of the first `length` tokens (Paulus et al. 2017)."""
    batch, beams, width = history.shape
    windows = width - ngram + 1
    if windows < 1:
        return jnp.zeros((batch, beams, vocab_size), bool)
    match = jnp.broadcast_to((jnp.arange(windows) + ngram <= length[:, None])[:, None], (batch, beams, windows))
    for offset in range(ngram - 1):
        place = jnp.maximum(length - (ngram - 1) + offset, 0)
        suffix = jnp.take_along_axis(history, jnp.broadcast_to(place[:, None, None], (batch, beams, 1)), axis=-1)
        match = match & (history[..., offset : offset + windows] == suffix)
    banned = jnp.where(match, history[..., ngram - 1 :], vocab_size)  # out-of-range indices are dropped
    row, beam = jnp.arange(batch)[:, None, None], jnp.arange(beams)[:, None]
    return jnp.zeros((batch, beams, vocab_size), bool).at[row, beam, banned].set(True, mode="drop")


def completing(
    history: Int[Array, "B N W"], length: Int[Array, "B"], sequences: Sequence[tuple[int, ...]], vocab_size: int
) -> Bool[Array, "B N V"]:
    """Returns True for tokens that would complete one of some sequences after the first `length` tokens."""
    batch, beams, _ = history.shape
    banned = jnp.zeros((batch, beams, vocab_size), bool)
    for size in sorted({len(sequence) for sequence in sequences}):
        alike = np.array([sequence for sequence in sequences if len(sequence) == size], np.int32)
        places = jnp.maximum(length[:, None] - (size - 1) + jnp.arange(size - 1), 0)
        last = jnp.take_along_axis(history, jnp.broadcast_to(places[:, None], (batch, beams, size - 1)), axis=-1)
        match = (last[..., None, :] == alike[:, :-1]).all(-1) & (length >= size - 1)[:, None, None]
        banned = banned.at[..., alike[:, -1]].max(match)
    return banned


def best(scores: Float[Array, "B N V"], count: int) -> tuple[Array, Int[Array, "B count"], Int[Array, "B count"]]:
    """Returns the `count` highest scores over an input's beams, in descending order, with their beams and tokens."""
    batch, beams, vocab = scores.shape
    chunks = vocab // CHUNK
    if chunks * beams <= 2 * count:
        values, at = lax.top_k(scores.reshape(batch, -1), count)
        return values, at // vocab, at % vocab
    # The best tokens are in the chunks with the largest maxima, or in the incomplete last chunk.
    whole = scores[..., : chunks * CHUNK].reshape(batch, beams * chunks, CHUNK)
    _, chunk = lax.top_k(whole.max(-1), count)
    beam, start = chunk // chunks, chunk % chunks * CHUNK
    place = (beam * vocab + start)[..., None] + jnp.arange(CHUNK)
    tail = jnp.arange(beams)[:, None] * vocab + jnp.arange(chunks * CHUNK, vocab)
    place = jnp.concatenate(
        [place.reshape(batch, -1), jnp.broadcast_to(tail.reshape(1, -1), (batch, tail.size))], axis=1
    )
    values, at = lax.top_k(jnp.take_along_axis(scores.reshape(batch, -1), place, axis=1), count)
    place = jnp.take_along_axis(place, at, axis=1)
    return values, place // vocab, place % vocab


def top_k_top_p(logits: Float[Array, "B V"], options: GenerationConfig) -> Float[Array, "B V"]:
    """Applies temperature, then top-k (Fan et al. 2018), then top-p (Holtzman et al. 2020) to the remaining tokens."""
    logits = logits / options.temperature
    top_k = min(options.top_k, logits.shape[-1])
    if not top_k and options.top_p == 1.0:
        return logits
    ordered = lax.top_k(logits, top_k)[0] if top_k else -jnp.sort(-logits, axis=-1)
    if options.top_p < 1.0:
        mass = jax.nn.softmax(ordered, axis=-1)
        kept = jnp.cumsum(mass, axis=-1) - mass < options.top_p
        ordered = jnp.where(kept, ordered, jnp.inf)
    return jnp.where(logits < ordered.min(-1, keepdims=True), -jnp.inf, logits)


def draw(logits: Float[Array, "B V"], keys: Array, index: Array) -> Int[Array, "B"]:
    """Draws one token per row with the row's own key, independently of other rows."""
    return jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, index), row))(keys, logits)
