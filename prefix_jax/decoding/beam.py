"""Beam search with the semantics of `transformers` 5 (`early_stopping=False`), in one compiled loop.

Each step considers the `2 * beams` best continuations of an input. The best `beams` unfinished ones continue; finished
ones among the first `beams` compete, by score over length to the power of the penalty, for the `beams` finished slots.
An input is closed once all slots are full and its best running beam, if it ended now, would not beat the worst of them.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from prefix_jax.decoding.generation_config import GenerationConfig, Limits, candidates
from prefix_jax.decoding.kv_cache import Inputs, Prompt, loop, prefill, step
from prefix_jax.decoding.logits_processing import allowed, best, ends, normaliser
from prefix_jax.models import Model, ModelConfig
from prefix_jax.models.prefix import KeyValues, Prefix

# Score of empty slots; finite, as in `transformers`.
NONE = -1e9


class Running(NamedTuple):
    """Running beams; `slots[b, n, t]` is the beam that held this beam's token `t` when the token was fed."""

    tokens: Int[Array, "B N T"]
    slots: Int[Array, "B N T"]
    score: Float[Array, "B N"]


class Finished(NamedTuple):
    """The best finished sequences, in descending order; `score` is divided by the penalised length."""

    tokens: Int[Array, "B N T"]
    lengths: Int[Array, "B N"]
    score: Float[Array, "B N"]
    present: Bool[Array, "B N"]


class State(NamedTuple):
    """Search state: `index` tokens are chosen; `open` inputs can still improve."""

    index: Int[Array, ""]
    running: Running
    finished: Finished
    open: Bool[Array, "B"]


def search(
    model: Model,
    variables: dict,
    prefix: Prefix | None,
    inputs: Inputs,
    options: GenerationConfig,
    limits: Limits | None = None,
) -> tuple[Int[Array, "B T"], Int[Array, "B"], Float[Array, "B"]]:
    """Returns each input's best sequence, its length and its score (log-probability over penalised length).

    Args:
      limits: in place of those of the options, whose `max_length` is then the number of columns.
    """
    beams, model_config = options.width, model.model_config
    select = partial(_select, options=options, limits=limits or options.limits, model_config=model_config)
    prompt, logits = prefill(model, variables, prefix, inputs)
    state = select(_start(inputs, options, model_config), logits[:, None], prompt=prompt)

    def body(state: State, cache: KeyValues) -> tuple[State, KeyValues]:
        last = state.index - 1
        tokens = lax.dynamic_index_in_dim(state.running.tokens, last, axis=2, keepdims=False)
        logits, cache = step(model, variables, prefix, prompt, cache, state.running.slots, tokens, last)
        return select(state, logits, prompt=prompt), cache

    def going(state: State) -> Array:
        return state.open.any() if limits is None else state.open.any() & (state.index < limits.most)

    state = loop(going, body, state, prompt.past, beams, options.max_length)
    finished = state.finished
    return finished.tokens[:, 0], finished.lengths[:, 0], finished.score[:, 0]


def _start(inputs: Inputs, options: GenerationConfig, model_config: ModelConfig) -> State:
    """Returns the initial state: one empty beam, which the first selection expands to `beams`."""
    batch, beams, steps = inputs.tokens.shape[0], options.width, options.max_length
    empty = jnp.full((batch, beams, steps), model_config.pad_id, jnp.int32)
    running = Running(empty[:, :1], jnp.zeros((batch, 1, steps), jnp.int32), jnp.zeros((batch, 1), jnp.float32))
    finished = Finished(
        empty, jnp.zeros((batch, beams), jnp.int32), jnp.full((batch, beams), NONE), jnp.zeros((batch, beams), bool)
    )
    return State(jnp.int32(0), running, finished, inputs.lengths > 0)


def _select(
    state: State,
    logits: Float[Array, "B M V"],
    options: GenerationConfig,
    limits: Limits,
    model_config: ModelConfig,
    prompt: Prompt,
) -> State:
    """Selects token number `index` of every beam."""
    index, running = state.index, state.running
    scores = logits - normaliser(logits)
    scores = allowed(scores, options, model_config, prompt, running.tokens, index, limits) + running.score[..., None]
    score, parent, token = best(scores, candidates(options, model_config))
    ended = ends(token, options, model_config) | (index + 1 >= limits.most)
    tokens = lax.dynamic_update_slice_in_dim(
        _of(running.tokens, parent), token.astype(jnp.int32)[..., None], index, axis=2
    )
    finished = _finish(state, tokens, score, ended, options.width, limits.length_penalty)
    running = _go_on(running, parent, tokens, score, ended, index, options.width)
    return State(index + 1, running, finished, state.open & _can_gain(running, finished, index + 1, limits))


def _finish(
    state: State, tokens: Array, score: Array, ended: Array, beams: int, length_penalty: float | Array
) -> Finished:
    """Merges newly finished candidates with earlier ones."""
    old, length = state.finished, state.index + 1
    first = jnp.arange(score.shape[1]) < beams
    enters = ended & first
    score = score / length.astype(jnp.float32) ** length_penalty
    score = score + jnp.where(state.open[:, None], 0.0, NONE) + jnp.where(enters, 0.0, NONE)
    merged = Finished(
        jnp.concatenate([old.tokens, tokens], axis=1),
        jnp.concatenate([old.lengths, jnp.broadcast_to(length, score.shape)], axis=1),
        jnp.concatenate([old.score, score], axis=1),
        jnp.concatenate([old.present, enters], axis=1),
    )
    _, place = lax.top_k(merged.score, beams)
    return Finished(*(_of(leaf, place) for leaf in merged))


def _go_on(old: Running, parent: Array, tokens: Array, score: Array, ended: Array, index: Array, beams: int) -> Running:
    score, place = lax.top_k(score + jnp.where(ended, NONE, 0.0), beams)
    slots = _of(old.slots, _of(parent, place))
    here = jnp.broadcast_to(jnp.arange(beams, dtype=slots.dtype)[:, None], (*slots.shape[:2], 1))
    return Running(_of(tokens, place), lax.dynamic_update_slice_in_dim(slots, here, index, axis=2), score)


def _can_gain(running: Running, finished: Finished, length: Array, limits: Limits) -> Bool[Array, "B"]:
    hope = running.score[:, 0] / length.astype(jnp.float32) ** limits.length_penalty
    full = finished.present.all(axis=1)
    return ~full | (hope > finished.score.min(axis=1))


def _of(leaf: Array, place: Int[Array, "B C"]) -> Array:
    """Gathers entries along the second axis, row by row."""
    return jnp.take_along_axis(leaf, place.reshape(place.shape + (1,) * (leaf.ndim - 2)), axis=1)
