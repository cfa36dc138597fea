"""Sequences in progress, a slot each, for continuous batching: `admit` a prompt, `pick` tokens, `feed` them.

All arrays keep their shapes, so that nothing is compiled while requests come and go: once per width of a prompt for
`admit`, once per width of what is read for `feed`, and once for each way of picking. Rows do not see one another, so
what a row generates is what it generates alone.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from prefix_jax.decoding.generation_config import OfModel
from prefix_jax.decoding.kv_cache import Inputs, prefill
from prefix_jax.decoding.logits_processing import among, best, draw, normaliser, only
from prefix_jax.decoding.shelf import Shelf, rows_of
from prefix_jax.models import Model, ModelConfig
from prefix_jax.models.prefix import KeyValues, Past
from prefix_jax.tuning import TunedState

# Positions whose logits are computed together when a text is scored.
SCORED = 64


@struct.dataclass
class Slots:
    """The state of sequences; `capacity` is the number of tokens that a slot's cache holds.

    `logits` are those of each slot's next token. `cross` are the keys and values of encoder states, `inputs` of them a
    slot. `states` are the slots of a shelf (see `decoding.shelf`).
    """

    cache: KeyValues
    cross: KeyValues | None
    inputs: Int[Array, "slots"]
    filled: Int[Array, "slots"]
    index: Int[Array, "slots"]
    logits: Float[Array, "slots vocab"]
    states: Int[Array, "slots"]


class Rules(NamedTuple):
    """How each slot picks its tokens, `[slots]` each. Temperature 0 is greedy; `top_k=0` and `top_p=1` do not truncate.

    A token depends on `seed`, `row` and its number in the sequence. No end token comes before `least` tokens, and one
    that the model forces is the last of `most`.
    """

    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    seed: np.ndarray
    row: np.ndarray
    least: np.ndarray
    most: np.ndarray


class How(NamedTuple):
    """What a program for picking computes: draws, truncation before them, and the `tops` likeliest tokens."""

    samples: bool = False
    truncates: bool = False
    tops: int = 0


class Picked(NamedTuple):
    """The tokens of a step, their log-probabilities, and the likeliest tokens with theirs."""

    tokens: Int[Array, "slots"]
    scores: Float[Array, "slots"]
    top_tokens: Int[Array, "slots tops"]
    top_scores: Float[Array, "slots tops"]


def empty_slots(model: Model, variables: dict, count: int, capacity: int, width: int) -> Slots:
    """Returns slots without a sequence.

    Args:
      capacity: tokens of a slot's cache: prompt and new tokens, or an encoder-decoder's output.
      width: longest input of an encoder.
    """
    one: Any = jax.ShapeDtypeStruct((1, width), jnp.int32), *(jax.ShapeDtypeStruct((1,), jnp.int32),) * 2
    prompt, logits = jax.eval_shape(partial(prefill, model), variables, None, Inputs(*one))

    def cache(like: KeyValues, length: int) -> KeyValues:
        shape = (like.key.shape[0], count, like.key.shape[2], length, like.key.shape[-1])
        return KeyValues(jnp.zeros(shape, like.key.dtype), jnp.zeros(shape, like.value.dtype))

    @jax.jit
    def made() -> Slots:
        zeros = jnp.zeros(count, jnp.int32)
        cross = None if prompt.cross is None else cache(prompt.cross, width)
        rows = jnp.zeros((count, logits.shape[-1]), jnp.float32)
        return _placed(model, Slots(cache(prompt.past, capacity), cross, zeros, zeros, zeros, rows, zeros))

    return made()


def _placed(model: Model, slots: Slots) -> Slots:
    """Returns the slots as they lie on a mesh, always alike, so that a program is compiled once."""
    if model.sharder is None:
        return slots
    placed = jax.tree.map(model.sharder.everywhere, dataclasses.replace(slots, cache=None, cross=None))
    caches = jax.tree.map(model.sharder.cache, (slots.cache, slots.cross))
    return dataclasses.replace(placed, cache=caches[0], cross=caches[1])


@partial(jax.jit, static_argnums=0, donate_argnums=3)
def admit(
    model: Model,
    variables: dict,
    shelf: Shelf,
    slots: Slots,
    slot: Int[Array, ""],
    place: Int[Array, ""],
    tokens: Int[Array, "1 W"],
    length: Int[Array, ""],
) -> Slots:
    """Returns the slots with a prompt in one of them, computed with the state at `place` of the shelf.

    Args:
      tokens: right-padded; `length` of them are the prompt.
    """
    inputs = Inputs(tokens, length[None], jnp.zeros(1, jnp.int32))
    own = rows_of(shelf, place[None])
    prompt, logits = prefill(model, own.onto(variables), own.prefix, inputs)
    put = partial(jax.tree.map, lambda whole, row: _inserted(whole, row, slot))
    set_ = lambda leaf, value: leaf.at[slot].set(value)
    found = Slots(
        cache=put(slots.cache, prompt.past),
        cross=None if slots.cross is None else put(slots.cross, prompt.cross),
        inputs=set_(slots.inputs, length),
        filled=set_(slots.filled, prompt.lengths[0]),
        index=set_(slots.index, 0),
        logits=set_(slots.logits, logits[0]),
        states=set_(slots.states, place),
    )
    return _placed(model, found)


@partial(jax.jit, static_argnums=0, donate_argnums=3)
def admit_after(
    model: Model,
    variables: dict,
    shelf: Shelf,
    slots: Slots,
    slot: Int[Array, ""],
    place: Int[Array, ""],
    tokens: Int[Array, "1 W"],
    length: Int[Array, ""],
    source: Int[Array, ""],
    kept: Int[Array, ""],
) -> Slots:
    """Returns the slots with a prompt in one of them whose first `kept` tokens are those of slot `source`.

    Their keys and values are copied. For decoder-only models.

    Args:
      tokens: the rest of the prompt, right-padded; `length` of them are tokens. At most the capacity fits after `kept`.
    """
    columns, capacity = jnp.arange(tokens.shape[1]), slots.cache.key.shape[3]
    cached = KeyValues(*(lax.dynamic_slice_in_dim(leaf, source, 1, axis=1) for leaf in slots.cache))
    at, own = jnp.arange(capacity), rows_of(shelf, place[None])
    variables = own.onto(variables)
    hidden, new = model.apply(
        variables,
        tokens,
        (kept + columns)[None],
        (columns < length).astype(jnp.int32)[None],
        prefix=own.prefix,
        past=(Past(*cached, (at < kept)[None, None, None, None], at),),
        after=(columns == length - 1)[None],
        method="hidden",
    )

    def row(old: Array, fresh: Array) -> Array:
        # Padding may reach beyond the capacity, where an update would be moved to fit.
        longer = jnp.pad(old, ((0, 0),) * 3 + ((0, tokens.shape[1]), (0, 0)))
        return lax.dynamic_update_slice_in_dim(longer, fresh.astype(old.dtype), kept, axis=3)[:, :, :, :capacity]

    cache = KeyValues(*(_inserted(w, row(o, n), slot) for w, o, n in zip(slots.cache, cached, new, strict=True)))
    logits = model.apply(variables, jnp.take(hidden[0], length - 1, axis=0)[None], method="logits")
    set_ = lambda leaf, value: leaf.at[slot].set(value)
    found = dataclasses.replace(
        slots,
        cache=cache,
        inputs=set_(slots.inputs, kept + length),
        filled=set_(slots.filled, kept + length),
        index=set_(slots.index, 0),
        logits=set_(slots.logits, logits[0]),
        states=set_(slots.states, place),
    )
    return _placed(model, found)


def _inserted(whole: Float[Array, "L S K C D"], row: Float[Array, "L 1 K W D"], slot: Array) -> Array:
    zero = jnp.zeros_like(slot)
    return lax.dynamic_update_slice(whole, row.astype(whole.dtype), (zero, slot, zero, zero, zero))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def pick(
    model_config: ModelConfig, of_model: OfModel, end_ids: tuple[int, ...], how: How, slots: Slots, rules: Rules
) -> Picked:
    """Returns the next token of each slot; that of a slot without a sequence means nothing.

    Args:
      of_model: tokens that the model forces and bans.
      end_ids: tokens that end a text.
    """
    logits, vocab = slots.logits, slots.logits.shape[-1]
    scores = jnp.where(among(end_ids, vocab) & (slots.index < rules.least)[:, None], -jnp.inf, logits)
    if of_model.forced_bos is not None:
        scores = jnp.where((slots.index == 0)[:, None], only((of_model.forced_bos,), vocab), scores)
    if of_model.forced_eos:
        scores = jnp.where((slots.index == rules.most - 1)[:, None], only(of_model.forced_eos, vocab), scores)
    if of_model.banned_tokens:
        scores = jnp.where(among(of_model.banned_tokens, vocab), -jnp.inf, scores)
    token = best(scores[:, None], 1)[2][:, 0]
    if how.samples:
        key = lambda seed, row: jax.random.fold_in(jax.random.key(seed), row)
        warm = scores / jnp.where(rules.temperature > 0, rules.temperature, 1.0)[:, None]
        warm = _truncated(warm, jnp.asarray(rules.top_k), jnp.asarray(rules.top_p)) if how.truncates else warm
        drawn = jax.vmap(_draw)(jax.vmap(key)(rules.seed, rules.row), slots.index, warm)
        token = jnp.where(rules.temperature > 0, drawn, token)
    total = normaliser(logits)
    score = (jnp.take_along_axis(logits, token[:, None], axis=1) - total)[:, 0]
    top_scores, _, top_tokens = best(logits[:, None], max(how.tops, 1))
    return Picked(token.astype(jnp.int32), score, top_tokens[:, : how.tops], (top_scores - total)[:, : how.tops])


def _draw(key: Array, index: Array, logits: Float[Array, "V"]) -> Array:
    return draw(logits[None], key[None], index)[0]


def _truncated(logits: Float[Array, "S V"], top_k: Int[Array, "S"], top_p: Float[Array, "S"]) -> Float[Array, "S V"]:
    """Applies top-k and then top-p to the remaining tokens, as `top_k_top_p`, with numbers for each row."""
    ordered = -jnp.sort(-logits, axis=-1)
    first = jnp.arange(logits.shape[-1]) < jnp.where(top_k > 0, top_k, logits.shape[-1])[:, None]
    mass = jax.nn.softmax(jnp.where(first, ordered, -jnp.inf), axis=-1)
    within = jnp.cumsum(mass, axis=-1) - mass < top_p[:, None]
    kept = first & (within | (top_p >= 1)[:, None])
    return jnp.where(logits < jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True), -jnp.inf, logits)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def feed(
    model: Model,
    width: int,
    variables: dict,
    shelf: Shelf,
    slots: Slots,
    tokens: Int[Array, "slots"],
    running: Bool[Array, "slots"],
) -> Slots:
    """Returns the slots after a token of each that is `running`, with the logits of the next ones.

    Args:
      width: number of tokens that are read of each slot's caches; no running slot may have more.
    """
    logits, new = _one_token(model, variables, rows_of(shelf, slots.states), _narrowed(slots, width), tokens)
    at = jnp.minimum(slots.filled, slots.cache.key.shape[3] - 1)
    write = partial(jax.tree.map, lambda whole, fresh: _written(whole, fresh, at))
    found = dataclasses.replace(
        slots,
        cache=write(slots.cache, new),
        filled=slots.filled + running,
        index=slots.index + running,
        logits=jnp.where(running[:, None], logits, slots.logits),
    )
    return _placed(model, found)


def _narrowed(slots: Slots, width: int) -> Slots:
    """Returns the slots with the first tokens of their caches, because a step reads all that it is given."""
    cut = partial(jax.tree.map, lambda leaf: leaf[:, :, :, :width])
    return dataclasses.replace(slots, cache=cut(slots.cache), cross=cut(slots.cross))


def _one_token(
    model: Model, variables: dict, own: TunedState, slots: Slots, tokens: Int[Array, "S"]
) -> tuple[Float[Array, "S V"], KeyValues]:
    """Returns the logits after a token of each slot, and the token's keys and values."""
    args, method = (tokens[:, None], slots.filled[:, None]), "hidden"
    if slots.cross is not None:
        seen = jnp.arange(slots.cross.key.shape[3]) < slots.inputs[:, None]
        args, method = (*args, slots.cross, seen), "decode"
    variables = own.onto(variables)
    hidden, new = model.apply(variables, *args, prefix=own.prefix, past=(_past(slots),), method=method)
    return model.apply(variables, hidden[:, 0], method="logits"), new


def _past(slots: Slots) -> Past:
    at = jnp.arange(slots.cache.key.shape[3])
    return Past(slots.cache.key, slots.cache.value, (at < slots.filled[:, None])[:, None, None, None], at)


def _written(whole: Float[Array, "L S K C D"], fresh: Float[Array, "L S K 1 D"], at: Int[Array, "S"]) -> Array:
    """Writes a key or value of each slot at the slot's own place; one after another, because a scatter copies all."""
    fresh, zero = fresh.astype(whole.dtype), jnp.zeros_like(at[0])
    for slot in range(whole.shape[1]):
        place = (zero, zero + slot, zero, at[slot], zero)
        whole = lax.dynamic_update_slice(whole, fresh[:, slot : slot + 1], place)
    return whole


class TextScores(NamedTuple):
    """Of each token of a text, given those before it: its log-probability, and the likeliest tokens with theirs."""

    scores: Float[Array, "W"]
    top_tokens: Int[Array, "W tops"]
    top_scores: Float[Array, "W tops"]


@partial(jax.jit, static_argnums=(0, 1))
def score_text(
    model: Model,
    tops: int,
    variables: dict,
    shelf: Shelf,
    place: Int[Array, ""],
    tokens: Int[Array, "W"],
    length: Int[Array, ""],
) -> TextScores:
    """Scores a text of a decoder-only model with the state at `place` of the shelf; its first token has score 0."""
    segments = (jnp.arange(tokens.shape[0]) < length).astype(jnp.int32)[None]
    own = rows_of(shelf, place[None])
    variables = own.onto(variables)
    hidden, _ = model.apply(variables, tokens[None], segment_ids=segments, prefix=own.prefix, method="hidden")
    rows = -(-tokens.shape[0] // SCORED) * SCORED
    pad = lambda x: jnp.pad(x, ((0, rows - len(x)), *((0, 0),) * (x.ndim - 1)))
    following = jnp.concatenate([tokens[1:], tokens[:1]])

    def some(part: tuple[Array, Array]) -> TextScores:
        logits = model.apply(variables, part[0], method="logits")
        total = normaliser(logits)
        scores, _, ids = best(logits[:, None], max(tops, 1))
        own = jnp.take_along_axis(logits, part[1][:, None], axis=1) - total
        return TextScores(own[:, 0], ids[:, :tops], (scores - total)[:, :tops])

    parts = pad(hidden[0]).reshape(-1, SCORED, hidden.shape[-1]), pad(following).reshape(-1, SCORED)
    found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: tokens.shape[0]], lax.map(some, parts))
    shifted = lambda x: jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    return jax.tree.map(shifted, found)
