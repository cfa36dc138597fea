"""Text generation for one batch (`generate`) or any number of inputs (`decode_all`)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prefix_jax.decoding import beam, sampling
from prefix_jax.decoding.bank import Bank, grouped
from prefix_jax.decoding.generation_config import GenerationConfig, check_for, check_ids, check_window, end_ids
from prefix_jax.decoding.kv_cache import Inputs
from prefix_jax.decoding.shelf import NONE, Kind, Shelf, empty, rows_of
from prefix_jax.errors import UserError
from prefix_jax.models import Model
from prefix_jax.models.prefix import Prefix, check
from prefix_jax.parallel import distributed

# Inputs are padded to a multiple of this, which limits the number of compiled programs.
PADDING = 32


class NotFinite(UserError):
    """Non-finite logits for an input; `row` counts from 0."""

    def __init__(self, row: int) -> None:
        super().__init__(f"the model's logits for input {row + 1} are not finite; check its weights and the prefix's")
        self.row = row


class Generated(NamedTuple):
    """New tokens, padded with the pad id; `lengths` include the end token, if any.

    `scores` are the model's log-probabilities, before temperature and truncation, over `length ** length_penalty`.
    """

    tokens: Int[Array, "B max_length"]
    lengths: Int[Array, "B"]
    scores: Float[Array, "B"]


def generate(
    model: Model, variables: dict, prefix: Prefix | None, inputs: Inputs, options: GenerationConfig
) -> Generated:
    """Decodes one batch; compiled once per shape and set of options.

    Raises:
      UserError: the options do not suit the model, or input, prefix and output exceed its context length.
    """
    check_for(options, model.model_config)
    if prefix is not None:
        check(prefix, model.model_config)
    offset = 0 if prefix is None else int(prefix.position_offset)
    check_window(int(np.max(inputs.lengths, initial=0)), offset, options, model.model_config)
    return _generate(model, options.program(), variables, prefix, inputs, np.uint32(options.seed))


def generate_from_shelf(
    model: Model, variables: dict, shelf: Shelf, slots: Int[np.ndarray, "B"], inputs: Inputs, options: GenerationConfig
) -> Generated:
    """Decodes one batch in which each row has the tuned state of its slot; the rest is as in `generate`."""
    check_for(options, model.model_config)
    lengths, offsets = np.asarray(inputs.lengths), np.asarray(shelf.offsets)[slots]
    for length, offset in zip(lengths.tolist(), offsets.tolist(), strict=True):
        check_window(length, offset, options, model.model_config)
    return _from_shelf(model, options.program(), variables, shelf, slots, inputs, np.uint32(options.seed))


@partial(jax.jit, static_argnums=(0, 1))
def _from_shelf(
    model: Model, options: GenerationConfig, variables: dict, shelf: Shelf, slots: Array, inputs: Inputs, seed: Array
) -> Generated:
    own = rows_of(shelf, slots)
    return _generate(model, options, own.onto(variables), own.prefix, inputs, seed)


@partial(jax.jit, static_argnums=(0, 1))
def _generate(
    model: Model, options: GenerationConfig, variables: dict, prefix: Prefix | None, inputs: Inputs, seed: Array
) -> Generated:
    if options.width > 1:
        tokens, lengths, scores = beam.search(model, variables, prefix, inputs, options)
    else:
        tokens, lengths, scores = sampling.search(model, variables, prefix, inputs, options, seed)
        scores = scores / jnp.maximum(lengths, 1).astype(jnp.float32) ** options.length_penalty
    lengths = jnp.where(inputs.lengths > 0, lengths, 0)
    kept = jnp.arange(tokens.shape[1]) < lengths[:, None]
    return Generated(jnp.where(kept, tokens, model.model_config.pad_id), lengths, jnp.where(lengths > 0, scores, 0.0))


def make_inputs(token_lists: Sequence[Sequence[int]], width: int, batch: int, rows: Sequence[int]) -> Inputs:
    """Returns right-padded arrays `[batch, width]`; rows beyond the lists have length 0."""
    tokens = np.zeros((batch, width), np.int32)
    lengths, numbers = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
    for place, (ids, row) in enumerate(zip(token_lists, rows, strict=True)):
        tokens[place, : len(ids)] = ids
        lengths[place], numbers[place] = len(ids), row
    # Numpy arrays, which every process may pass to a program on all devices.
    arrays: Any = (tokens, lengths, numbers)
    return Inputs(*arrays)


def decode_all(
    model: Model,
    variables: dict,
    prefix: Prefix | None,
    token_lists: Sequence[Sequence[int]],
    options: GenerationConfig,
    batch: int,
    progress: Callable[[int], None] | None = None,
    numbers: Sequence[int] | None = None,
) -> list[list[int]]:
    """Returns the new tokens of each input, in input order, without end and padding tokens.

    Inputs of similar length share a batch, the longest first. A sample depends on the seed and the input's number, not
    on `batch`.

    Args:
      progress: called with how many inputs are finished.
      numbers: of the inputs; None: 0, 1, ...

    Raises:
      UserError: an input is empty or has an id outside the embedding, or any error of `generate`.
      NotFinite: an input's logits are not finite.
    """

    def run(_: None, __: Sequence[int], inputs: Inputs) -> Generated:
        return generate(model, variables, prefix, inputs, options)

    return _decoded({None: range(len(token_lists))}, run, model, token_lists, options, batch, progress, numbers)


def decode_from_bank(
    model: Model,
    variables: dict,
    bank: Bank,
    names: Sequence[str | None],
    token_lists: Sequence[Sequence[int]],
    options: GenerationConfig,
    batch: int,
    progress: Callable[[int], None] | None = None,
    numbers: Sequence[int] | None = None,
) -> list[list[int]]:
    """Does what `decode_all` does, each input with the tuned state that it names in a bank; None: without one.

    Inputs whose states lie on one shelf share batches. Those of a prompt begin with its reserved places.

    Raises:
      UserError: a name is not in the bank, or any error of `decode_all`.
    """
    with bank.using(names) as places:

        def run(kind: Kind, rows: Sequence[int], inputs: Inputs) -> Generated:
            slots = np.full(batch, NONE, np.int32)
            slots[: len(rows)] = [NONE if (place := places[row]) is None else place.slot for row in rows]
            shelf = bank.shelves.get(kind) or empty(model.model_config, 2, kind)
            return generate_from_shelf(model, variables, shelf, slots, inputs, options)

        return _decoded(grouped(places), run, model, token_lists, options, batch, progress, numbers)


def _decoded(
    groups: Mapping[Any, Sequence[int]],
    run: Callable[[Any, Sequence[int], Inputs], Generated],
    model: Model,
    token_lists: Sequence[Sequence[int]],
    options: GenerationConfig,
    batch: int,
    progress: Callable[[int], None] | None,
    numbers: Sequence[int] | None,
) -> list[list[int]]:
    """Returns the new tokens of each input; those of a group share batches, which `run` decodes."""
    for row, ids in enumerate(token_lists):
        if not len(ids):
            raise UserError(f"input {row + 1} has no tokens; give it text or leave it out")
    check_ids(token_lists, model.model_config)
    results: list[list[int]] = [[] for _ in token_lists]
    done = 0
    for name, group in groups.items():
        order = sorted(group, key=lambda row: -len(token_lists[row]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            found = run(name, rows, _padded_inputs(token_lists, rows, batch, numbers))
            _collect(results, rows, found, options, model)
            done += len(rows)
            if progress is not None:
                progress(done)
    return results


def _padded_inputs(
    token_lists: Sequence[Sequence[int]], rows: Sequence[int], batch: int, numbers: Sequence[int] | None
) -> Inputs:
    """Returns a batch of inputs, the longest first."""
    width = -(-len(token_lists[rows[0]]) // PADDING) * PADDING
    numbered = rows if numbers is None else [numbers[row] for row in rows]
    return make_inputs([token_lists[row] for row in rows], width, batch, numbered)


def _collect(
    results: list[list[int]], rows: Sequence[int], found: Generated, options: GenerationConfig, model: Model
) -> None:
    """Puts the tokens of a batch in their places."""
    done, ends = distributed.fetch(found), end_ids(options, model.model_config)
    for place, row in enumerate(rows):
        if np.isnan(done.scores[place]):
            raise NotFinite(row)
        results[row] = _text_ids(done.tokens[place, : done.lengths[place]], ends)


def _text_ids(tokens: np.ndarray, ends: tuple[int, ...]) -> list[int]:
    ids = tokens.tolist()
    return ids[:-1] if ids and ids[-1] in ends else ids
