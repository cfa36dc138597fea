"""The loss: weighted cross-entropy of target tokens, in float32.

The batch contains the shift (`target_positions` are the columns that predict the targets); nothing is shifted here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, nn
from jaxtyping import Array, Float, Int

from prefix_jax.data.batching import Batch
from prefix_jax.models import Model
from prefix_jax.models.prefix import Prefix

# Logits that exist at once on a device: half a gibibyte in float32.
MOST_LOGITS = 2**27


@jax.custom_vjp
def token_losses(logits: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """Returns -log p(target) at each position; targets must be valid token ids (use weight 0 elsewhere)."""
    return _losses(logits, targets)[0]


def _losses(logits: Array, targets: Array) -> tuple[Array, Array]:
    total = nn.logsumexp(logits, axis=-1)
    return total - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0], total


def _losses_fwd(logits: Array, targets: Array) -> tuple[Array, tuple[Array, ...]]:
    losses, total = _losses(logits, targets)
    return losses, (logits, targets, total)


def _losses_bwd(kept: tuple[Array, ...], g: Array) -> tuple[Array, None]:
    # A comparison, because the gradient of indexing would be a scatter: one pass over the logits.
    logits, targets, total = kept
    chosen = jnp.arange(logits.shape[-1]) == targets[..., None]
    return (jnp.exp(logits - total[..., None]) - chosen) * g[..., None], None


token_losses.defvjp(_losses_fwd, _losses_bwd)


def loss_sums(
    model: Model, variables: Mapping[str, Any], prefix: Prefix | None, batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the sum of weighted token losses and the sum of the weights.

    Logits are computed at target positions only, `MOST_LOGITS` at a time.

    >>> batch = lm.batch(pairs)
    >>> total, weight = pj.loss(lm.model, lm.variables, None, batch)
    >>> bool(total / weight > 0)
    True
    """
    hidden = _target_hidden(model, variables, prefix, batch)
    losses = _of_targets(model, variables, hidden, (batch.targets,), token_losses)
    return jnp.sum(losses * batch.weights), jnp.sum(batch.weights)


def divergence_sums(
    model: Model, variables: Mapping[str, Any], prefix: Prefix | None, batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the sum of weighted divergences from a teacher, in nats, and the sum of the weights.

    Context distillation: the batch has the teacher's likeliest tokens (`Batch.soft_ids`), and the model's distribution
    at each target is compared with the teacher's (see `divergences`).
    """
    assert batch.soft_ids is not None and batch.soft_log_probs is not None, "the batch comes from a teacher"
    hidden = _target_hidden(model, variables, prefix, batch)
    losses = _of_targets(model, variables, hidden, (batch.soft_ids, batch.soft_log_probs), divergences)
    return jnp.sum(losses * batch.weights), jnp.sum(batch.weights)


def divergences(
    logits: Float[Array, "... V"], ids: Int[Array, "... k"], log_probs: Float[Array, "... k"]
) -> Float[Array, "..."]:
    """Returns the Kullback-Leibler divergence of a distribution from a teacher's, of which k tokens are known.

    All other tokens together are one more outcome, so that it is 0 where the two agree, and at most the divergence over
    all tokens.
    """
    total = nn.logsumexp(logits, axis=-1, keepdims=True)
    own = jnp.take_along_axis(logits, ids, axis=-1) - total
    rest, own_rest = (_log_of_rest(part) for part in (log_probs, own))
    return jnp.sum(jnp.exp(log_probs) * (log_probs - own), -1) + jnp.exp(rest) * (rest - own_rest)


def _log_of_rest(log_probs: Float[Array, "... k"]) -> Float[Array, "..."]:
    """Returns the log probability of all tokens but those given, of at least about float32's accuracy."""
    return jnp.log(jnp.maximum(1 - jnp.sum(jnp.exp(log_probs), -1), 1e-6))


def _target_hidden(
    model: Model, variables: Mapping[str, Any], prefix: Prefix | None, batch: Batch
) -> Float[Array, "B M E"]:
    inputs = model_inputs(batch)
    if batch.alone and model.kernel == "cudnn":
        inputs |= dict(segment_ids=None)  # no token sees the padding behind it: the kernel needs no mask
    return model.apply(variables, **inputs, prefix=prefix, method="target_hidden")


def _of_targets(
    model: Model,
    variables: Mapping[str, Any],
    hidden: Float[Array, "B M E"],
    targets: tuple[Array, ...],
    loss: Callable[..., Array],
) -> Float[Array, "B M"]:
    """Returns `loss(logits, *targets)`; of many logits, some columns at a time, computed again for the gradient."""

    def losses(part: tuple[Array, ...]) -> Array:
        return loss(model.apply(variables, part[0], method="logits"), *part[1:])

    count, devices = hidden.shape[1], 1 if model.sharder is None else model.sharder.row_shards
    size = hidden.shape[0] * count * model.model_config.vocab_size
    parts = min(-(-size // (MOST_LOGITS * devices)), count)
    if parts < 2:
        return losses((hidden, *targets))
    width = -(-count // parts)
    more = -count % width

    def apart(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, more)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, width, *x.shape[2:]), 1, 0)

    found = lax.map(jax.checkpoint(losses), tuple(apart(part) for part in (hidden, *targets)))
    return jnp.moveaxis(found, 0, 1).reshape(hidden.shape[0], -1)[:, :count]


def model_inputs(batch: Batch) -> dict[str, Any]:
    """Returns the model's inputs in a batch, by argument name."""
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
    """Returns the number of records in a batch: segments that end in a target."""
    return jnp.sum(jnp.max(batch.segment_ids, axis=-1))
