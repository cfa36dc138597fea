"""One loss with one shift: the weighted cross-entropy of target tokens, in float32.

The shift is in the batch (`target_positions` are the columns that predict the targets); nothing here shifts again.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import nn
from jaxtyping import Array, Float, Int

from prefix_jax.data.batching import Batch
from prefix_jax.models import Model
from prefix_jax.models.prefix import Prefix


def token_losses(logits: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """Returns -log p(target) for each position; targets must be ids of the vocabulary (weight the rest with 0)."""
    # A comparison instead of a gather: its gradient is no scatter, and it fuses with the sum.
    chosen = jnp.arange(logits.shape[-1]) == targets[..., None]
    return nn.logsumexp(logits, axis=-1) - jnp.where(chosen, logits, 0.0).sum(-1)


def loss_sums(
    model: Model, variables: Mapping[str, Any], prefix: Prefix | None, batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the sum of weighted token losses and the sum of the weights.

    Only target positions meet the vocabulary matrix.
    """
    hidden = model.apply(variables, **model_inputs(batch), prefix=prefix, method="target_hidden")
    logits = model.apply(variables, hidden, method="logits")
    losses = token_losses(logits, batch.targets)
    return jnp.sum(losses * batch.weights), jnp.sum(batch.weights)


def model_inputs(batch: Batch) -> dict[str, Any]:
    """Returns what the model reads of a batch, by the names of its arguments."""
    inputs = dict(
        tokens=batch.tokens,
        positions=batch.positions,
        segment_ids=batch.segment_ids,
        target_positions=batch.target_positions,
    )
    if batch.encoder_tokens is not None:
        inputs |= dict(
            encoder_tokens=batch.encoder_tokens,
            encoder_positions=batch.encoder_positions,
            encoder_segment_ids=batch.encoder_segment_ids,
        )
    return inputs


def record_count(batch: Batch) -> Int[Array, ""]:
    """Returns how many records are packed in a batch: segments that end in a target."""
    return jnp.sum(jnp.max(batch.segment_ids, axis=-1))
