"""KV cache: prefill of the prompt, and the decoding step that feeds one new token to every beam.

Keys and values of new tokens stay where they were written: beam `n` of step `t` owns slot `t * beams + n`. A beam that
descends from another sees its ancestor's slots through a mask, so nothing is copied when beams are reordered.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from prefix_jax.models import Model
from prefix_jax.models.prefix import KeyValues, Past, Prefix, for_beams

# Initial capacity of the cache of new tokens, in steps.
FIRST_STAGE = 16


class Inputs(NamedTuple):
    """Right-padded token ids: prompts of a decoder-only model, or inputs of an encoder.

    A row of length 0 is padding, for which nothing is generated. `rows` are the indices from which sampling derives
    each row's random key.
    """

    tokens: Int[Array, "B S"]
    lengths: Int[Array, "B"]
    rows: Int[Array, "B"]


class Prompt(NamedTuple):
    """Inputs of every step: the decoder's cache before the first new token, shared by the beams of an input.

    `tokens` and `lengths` describe the cached tokens: the prompt, or an encoder-decoder's start token.
    """

    tokens: Int[Array, "B P"]
    lengths: Int[Array, "B"]
    past: KeyValues
    cross: KeyValues | None
    cross_mask: Bool[Array, "B S"] | None


def prefill(model: Model, variables: dict, prefix: Prefix | None, inputs: Inputs) -> tuple[Prompt, Float[Array, "B V"]]:
    """Computes the prompt's caches and the logits of the first new token."""
    tokens, lengths, _ = inputs
    mask = jnp.arange(tokens.shape[1]) < lengths[:, None]
    segments = mask.astype(jnp.int32)
    if not model.model_config.is_encoder_decoder:
        columns = jnp.arange(tokens.shape[1])
        after = columns == lengths[:, None] - 1
        hidden, past = model.apply(variables, tokens, columns, segments, prefix=prefix, after=after, method="hidden")
        last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
        return Prompt(tokens, lengths, past, None, None), model.apply(variables, last, method="logits")
    memory = model.apply(variables, tokens, segments, prefix=prefix, method="encode")
    cross = model.apply(variables, memory, method="cross_key_values")
    start = jnp.full((tokens.shape[0], 1), model.model_config.decoder_start_id, tokens.dtype)
    hidden, past = model.apply(variables, start, jnp.arange(1), cross, mask, prefix=prefix, method="decode")
    prompt = Prompt(start, jnp.ones_like(lengths), past, cross, mask)
    return prompt, model.apply(variables, hidden[:, 0], method="logits")


def loop(
    going: Callable[[Any], Array], body: Callable[[Any, KeyValues], tuple[Any, KeyValues]], state: Any, past: KeyValues,
    beams: int, steps: int,
) -> Any:  # fmt: skip
    """Runs `body` until `state.index` is `steps` or nothing is `going`, and returns the final state.

    The cache of new tokens, initially zeros `[L, B, K, slots, D]`, grows in stages, because a step reads all of it.
    """
    cache = KeyValues(*(jnp.zeros((*leaf.shape[:3], 0, leaf.shape[-1]), leaf.dtype) for leaf in past))
    for limit in stages(steps):
        cache = KeyValues(*(_grown(leaf, limit * beams) for leaf in cache))
        state, cache = lax.while_loop(
            lambda carry: (carry[0].index < limit) & going(carry[0]),  # noqa: B023
            lambda carry: body(*carry),
            (state, cache),
        )
    return state


def stages(steps: int) -> list[int]:
    """Returns the cache's capacities in steps: doubled until `steps` fit."""
    limits = [FIRST_STAGE]
    while limits[-1] < steps:
        limits.append(2 * limits[-1])
    return [*limits[:-1], steps]


def _grown(cache: Array, slots: int) -> Array:
    return jnp.pad(cache, ((0, 0),) * 3 + ((0, slots - cache.shape[3]), (0, 0)))


def step(
    model: Model,
    variables: dict,
    prefix: Prefix | None,
    prompt: Prompt,
    cache: KeyValues,
    slots: Int[Array, "B N T"],
    tokens: Int[Array, "B N"],
    index: Int[Array, ""],
) -> tuple[Float[Array, "B N V"], KeyValues]:
    """Feeds new token number `index` of every beam; returns the next logits and the cache with the token's keys.

    `slots[b, n, t]` is the beam that held, at step `t`, token `t` of the current beam `n`.
    """
    beams, prefix = tokens.shape[1], for_beams(prefix)
    own, column = _owned(slots[..., : cache.key.shape[3] // beams], index)
    if prompt.cross is None:
        positions = jnp.broadcast_to((prompt.lengths + index)[:, None, None], (*tokens.shape, 1))
        hidden, new = model.apply(
            variables,
            tokens[..., None],
            positions,
            prefix=prefix,
            past=_pasts(prompt, cache, own, prompt.lengths[:, None, None] + column),
            method="hidden",
        )
    else:
        hidden, new = model.apply(
            variables,
            tokens[..., None],
            prompt.tokens.shape[1] + index[None],
            prompt.cross,
            prompt.cross_mask,
            prefix=prefix,
            past=_pasts(prompt, cache, own, prompt.tokens.shape[1] + column),
            method="decode",
        )
    logits = model.apply(variables, hidden[..., 0, :], method="logits")
    return logits, KeyValues(*(_written(old, fresh, index * beams) for old, fresh in zip(cache, new, strict=True)))


def _owned(slots: Int[Array, "B N T"], index: Array) -> tuple[Bool[Array, "B N S"], Int[Array, "S"]]:
    """Returns which cache slots hold a beam's own earlier tokens, and the steps of the slots."""
    batch, beams, steps = slots.shape
    column = jnp.arange(steps * beams) // beams
    own = (slots[..., None] == jnp.arange(beams)).reshape(batch, beams, steps * beams)
    return own & (column < index), column


def _pasts(prompt: Prompt, cache: KeyValues, own: Array, positions: Array) -> tuple[Past, Past]:
    """Returns the caches of the prompt and of new tokens, at `positions`, with masks `[B, 1 or N, 1, 1, 1, S]`."""
    return prompt_past(prompt), Past(*cache, own[:, :, None, None, None], positions)


def prompt_past(prompt: Prompt) -> Past:
    """Returns the prompt's cache, as tokens `[B, N, T]` that follow it see it."""
    at = jnp.arange(prompt.tokens.shape[1])
    known = at < prompt.lengths[:, None]
    return Past(*prompt.past, known[:, None, None, None, None], at)


def _written(cache: Array, new: Float[Array, "L B N K 1 D"], slot: Array) -> Array:
    """Writes one step's keys or values for all beams and layers at once."""
    rows = jnp.moveaxis(new[..., 0, :], 2, 3)
    return lax.dynamic_update_slice_in_dim(cache, rows.astype(cache.dtype), slot, axis=3)
