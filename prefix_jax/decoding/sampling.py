"""Greedy decoding and sampling: one sequence per input, in one compiled loop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from prefix_jax.decoding.generation_config import GenerationConfig
from prefix_jax.decoding.kv_cache import Inputs, Prompt, loop, prefill, step
from prefix_jax.decoding.logits_processing import allowed, best, draw, ends, normaliser, top_k_top_p
from prefix_jax.models import Model, ModelConfig
from prefix_jax.models.prefix import KeyValues, Prefix


class Lines(NamedTuple):
    """Sequences so far: `index` tokens each, fewer if ended; `score` is the sum of log-probabilities."""

    index: Int[Array, ""]
    tokens: Int[Array, "B T"]
    lengths: Int[Array, "B"]
    score: Float[Array, "B"]
    running: Array


def search(
    model: Model, variables: dict, prefix: Prefix | None, inputs: Inputs, options: GenerationConfig, seed: Array
) -> tuple[Int[Array, "B T"], Int[Array, "B"], Float[Array, "B"]]:
    """Returns tokens padded with the pad id, lengths (including the end token) and sums of log-probabilities."""
    model_config = model.model_config
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(inputs.rows)
    prompt, logits = prefill(model, variables, prefix, inputs)
    batch = inputs.tokens.shape[0]
    lines = Lines(
        index=jnp.int32(0),
        tokens=jnp.full((batch, options.max_length), model_config.pad_id, jnp.int32),
        lengths=jnp.zeros(batch, jnp.int32),
        score=jnp.zeros(batch, jnp.float32),
        running=inputs.lengths > 0,
    )
    lines = _extend(lines, logits, options, model_config, prompt, keys)
    slots = jnp.zeros((batch, 1, options.max_length), jnp.int32)

    def body(lines: Lines, cache: KeyValues) -> tuple[Lines, KeyValues]:
        last = lines.index - 1
        tokens = lax.dynamic_index_in_dim(lines.tokens, last, axis=1)
        logits, cache = step(model, variables, prefix, prompt, cache, slots, tokens, last)
        return _extend(lines, logits[:, 0], options, model_config, prompt, keys), cache

    lines = loop(lambda lines: lines.running.any(), body, lines, prompt.past, 1, options.max_length)
    return lines.tokens, lines.lengths, lines.score


def _extend(
    lines: Lines, logits: Array, options: GenerationConfig, model_config: ModelConfig, prompt: Prompt, keys: Array
) -> Lines:
    index, running = lines.index, lines.running
    scores = allowed(logits[:, None], options, model_config, prompt, lines.tokens[:, None], index)
    sampled = options.strategy == "sample"
    token = draw(top_k_top_p(scores[:, 0], options), keys, index) if sampled else best(scores, 1)[2][:, 0]
    gain = (jnp.take_along_axis(logits, token[:, None], axis=1) - normaliser(logits))[:, 0]
    column = jnp.where(running, token, model_config.pad_id).astype(jnp.int32)[:, None]
    return Lines(
        index=index + 1,
        tokens=lax.dynamic_update_slice_in_dim(lines.tokens, column, index, axis=1),
        lengths=lines.lengths + running,
        score=lines.score + jnp.where(running, gain, 0.0),
        running=running & ~ends(token, options, model_config),
    )
