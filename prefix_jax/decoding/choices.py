"""Log-likelihoods of given continuations (the choices of an input), in one compiled program per shape.

An input's prompt is computed once; all of its choices read the same key-value cache.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from jaxtyping import Array, Bool, Float, Int

from prefix_jax.decoding.generate import PADDING, NotFinite, make_inputs
from prefix_jax.decoding.generation_config import check_ids
from prefix_jax.decoding.kv_cache import Inputs, Prompt, prefill, prompt_past
from prefix_jax.errors import UserError
from prefix_jax.models import Model
from prefix_jax.models.prefix import Prefix, check
from prefix_jax.parallel import distributed

NORMALISATIONS = ("sum", "token", "byte")
# Choices are padded to a multiple of this; together with `PADDING` it limits the number of compiled programs.
_COLUMNS = 4
# Largest number of choices in a batch, over all of its inputs.
_ROWS = 256


class Choices(NamedTuple):
    """Right-padded token ids of each input's choices; a choice of length 0 is padding."""

    tokens: Int[Array, "B C T"]
    lengths: Int[Array, "B C"]


class Scored(NamedTuple):
    """Log-likelihoods of choices, and whether each is what greedy decoding writes."""

    sums: Float[Array, "B C"]
    greedy: Bool[Array, "B C"]


@partial(jax.jit, static_argnums=0)
def log_likelihoods(model: Model, variables: dict, prefix: Prefix | None, inputs: Inputs, choices: Choices) -> Scored:
    """Returns log p(choice | input), summed over the tokens of each choice; 0 where a choice is padding."""
    prompt, logits_BxV = prefill(model, variables, prefix, inputs)
    found = jax.tree.map(lambda x: x[..., None], _of_tokens(logits_BxV[:, None], choices.tokens[..., 0]))
    if choices.tokens.shape[-1] > 1:
        hidden_BxCxTxE = _hidden(model, variables, prefix, prompt, choices.tokens[..., :-1])
        # One column at a time: the logits of all of them would be larger than everything else.
        columns = jnp.moveaxis(hidden_BxCxTxE, 2, 0), jnp.moveaxis(choices.tokens[..., 1:], 2, 0)
        later = lax.map(lambda x: _of_tokens(model.apply(variables, x[0], method="logits"), x[1]), columns)
        found = jax.tree.map(lambda x, y: jnp.concatenate([x, jnp.moveaxis(y, 0, 2)], axis=-1), found, later)
    real = jnp.arange(choices.tokens.shape[-1]) < choices.lengths[..., None]
    return Scored(jnp.sum(jnp.where(real, found.sums, 0.0), axis=-1), jnp.all(found.greedy | ~real, axis=-1))


def _of_tokens(logits: Float[Array, "... V"], tokens: Int[Array, "B C"]) -> Scored:
    """Returns the log-probability of each token, and whether it is the likeliest."""
    logits = jnp.broadcast_to(logits, (*tokens.shape, logits.shape[-1]))
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return Scored(chosen - nn.logsumexp(logits, axis=-1), chosen >= jnp.max(logits, axis=-1))


def _hidden(
    model: Model, variables: dict, prefix: Prefix | None, prompt: Prompt, tokens: Int[Array, "B C T"]
) -> Float[Array, "B C T E"]:
    """Returns the hidden states of tokens that follow the prompt, without seeing those of other choices."""
    past, columns = (prompt_past(prompt),), jnp.arange(tokens.shape[-1])
    if prompt.cross is None:
        positions = jnp.broadcast_to(prompt.lengths[:, None, None] + columns, tokens.shape)
        return model.apply(variables, tokens, positions, prefix=prefix, past=past, method="hidden")[0]
    columns = prompt.tokens.shape[1] + columns
    args = (tokens, columns, prompt.cross, prompt.cross_mask)
    return model.apply(variables, *args, prefix=prefix, past=past, method="decode")[0]


def score_all(
    model: Model,
    variables: dict,
    prefix: Prefix | None,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    batch: int,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Returns the summed log-likelihoods of each input's choices, as `score_with_greedy` does."""
    return [sums for sums, _ in score_with_greedy(model, variables, prefix, prompts, choices, batch, progress)]


def score_with_greedy(
    model: Model,
    variables: dict,
    prefix: Prefix | None,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[Sequence[int]]],
    batch: int,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the summed log-likelihoods of each input's choices and whether each is greedy, in input order.

    Inputs of similar length share a batch, the longest first. `progress` is called with the number of finished inputs.

    Raises:
      UserError: an input or a choice has no tokens or an id outside the embedding, or does not fit the context length.
      NotFinite: an input's logits are not finite.
    """
    if not prompts:
        return []
    _check(model, prefix, prompts, choices)
    most = max(len(one) for one in choices)
    longest = max(len(ids) for one in choices for ids in one)
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    batch = max(1, min(batch, len(order), _ROWS // most))
    results: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0, bool))] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = -(-len(prompts[rows[0]]) // PADDING) * PADDING
        columns = _columns(model, prefix, len(prompts[rows[0]]), longest)
        inputs = make_inputs([prompts[row] for row in rows], width, batch, rows)
        given = make_choices([choices[row] for row in rows], most, columns, batch)
        found = distributed.fetch(log_likelihoods(model, variables, prefix, inputs, given))
        for place, row in enumerate(rows):
            count = len(choices[row])
            results[row] = np.asarray(found.sums[place, :count], np.float64), np.asarray(found.greedy[place, :count])
            if not np.isfinite(results[row][0]).all():
                raise NotFinite(row)
        if progress is not None:
            progress(min(start + batch, len(order)))
    return results


def make_choices(lists: Sequence[Sequence[Sequence[int]]], most: int, width: int, batch: int) -> Choices:
    """Returns right-padded arrays `[batch, most, width]`."""
    tokens, lengths = np.zeros((batch, most, width), np.int32), np.zeros((batch, most), np.int32)
    for row, choices in enumerate(lists):
        for place, ids in enumerate(choices):
            tokens[row, place, : len(ids)], lengths[row, place] = ids, len(ids)
    # Numpy arrays, which every process may pass to a program on all devices.
    arrays: Any = (tokens, lengths)
    return Choices(*arrays)


def normalised(sums: np.ndarray, tokens: Sequence[int], byte_counts: Sequence[int], how: str = "sum") -> np.ndarray:
    """Returns the scores by which choices are compared.

    Args:
      sums: summed log-likelihoods; where they are calibrated, those given an empty input are subtracted.
      tokens: number of tokens of each choice.
      byte_counts: number of UTF-8 bytes of each choice.
      how: one of `NORMALISATIONS`.
    """
    divisors = {"sum": np.ones(len(sums)), "token": np.asarray(tokens), "byte": np.asarray(byte_counts)}
    return np.asarray(sums, np.float64) / np.maximum(divisors[how], 1)


def _columns(model: Model, prefix: Prefix | None, prompt: int, longest: int) -> int:
    """Returns the padded length of choices, within the context length."""
    room = _room(model, prefix, prompt)
    padded = longest if longest == 1 else -(-longest // _COLUMNS) * _COLUMNS
    return padded if room is None else min(padded, room)


def _room(model: Model, prefix: Prefix | None, prompt: int) -> int | None:
    """Returns the number of tokens that a choice may have after a prompt; the last one is predicted, never read."""
    window = model.model_config.context_length
    if window is None:
        return None
    offset = 0 if prefix is None else int(prefix.position_offset)
    return window - offset - (0 if model.model_config.is_encoder_decoder else prompt - 1)


def _check(model: Model, prefix: Prefix | None, prompts: Sequence, choices: Sequence) -> None:
    if prefix is not None:
        check(prefix, model.model_config)
    check_ids(prompts, model.model_config)
    window = model.model_config.context_length
    for row, (ids, own) in enumerate(zip(prompts, choices, strict=True)):
        if not len(ids):
            raise UserError(f"input {row + 1} has no tokens; give it text or leave it out")
        if not own or not all(len(choice) for choice in own):
            raise UserError(f"input {row + 1} has no choices, or one without tokens; give each of them text")
        check_ids(own, model.model_config)
        room, longest = _room(model, prefix, len(ids)), max(map(len, own))
        over = model.model_config.is_encoder_decoder and window is not None and len(ids) > window
        if over or (room is not None and longest > room):
            raise UserError(
                f"input {row + 1} has {len(ids)} tokens and a choice of {longest}, over this model's context length of "
                f"{window}; shorten them, or lower --config.data.max_source_length"
            )
