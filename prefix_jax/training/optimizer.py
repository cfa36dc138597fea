"""AdamW on the trainable tree, with every tunable number as a traced array."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, PyTree

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.options import Config

SCHEDULES = ("linear", "cosine", "constant")


@struct.dataclass
class Hyperparameters:
    """Hyperparameters of the optimizer: traced, so that sweep members with different values share a program."""

    learning_rate: Array
    warmup_steps: Array
    total_steps: Array
    final_fraction: Array
    weight_decay: Array
    clip: Array
    b1: Array
    b2: Array
    epsilon: Array
    schedule: str = struct.field(pytree_node=False)


def hyperparameters_from(section: Config, total_steps: int) -> Hyperparameters:
    """Returns the hyperparameters; `clip` 0 disables clipping.

    Raises:
      UserError: the schedule is unknown.
    """
    if section.schedule not in SCHEDULES:
        raise UserError(f'optimizer.schedule is "{section.schedule}"{did_you_mean(section.schedule, SCHEDULES)}')
    names = ("learning_rate", "warmup_steps", "final_fraction", "weight_decay", "b1", "b2", "epsilon")
    values = {name: jnp.float32(section[name]) for name in names}
    clip = jnp.float32(section.clip or jnp.inf)
    return Hyperparameters(**values, clip=clip, total_steps=jnp.float32(total_steps), schedule=section.schedule)


def learning_rate(hyper: Hyperparameters, step: Array | int) -> Array:
    """Returns the learning rate of a step counted from 0: linear warm-up to the peak, then the schedule's decay."""
    step = jnp.asarray(step, jnp.float32)
    warm = jnp.minimum(1.0, (step + 1) / jnp.maximum(hyper.warmup_steps, 1))
    span = jnp.maximum(hyper.total_steps - hyper.warmup_steps, 1)
    done = jnp.clip((step - hyper.warmup_steps) / span, 0.0, 1.0)
    decay = {"linear": 1 - done, "cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)), "constant": jnp.ones_like(done)}
    share = decay[hyper.schedule]
    return hyper.learning_rate * warm * (hyper.final_fraction + (1 - hyper.final_fraction) * share)


def make_optimizer(hyper: Hyperparameters, mask: PyTree) -> optax.GradientTransformation:
    """Chains clipping, Adam and weight decay inside the mask, with zero updates outside it.

    `optax.masked` alone would pass through the raw gradients of masked-out leaves.
    """
    inside = optax.chain(
        _clip(hyper.clip),
        optax.scale_by_adam(hyper.b1, hyper.b2, hyper.epsilon),
        _decay(hyper.weight_decay),
    )
    return within(inside, mask)


def within(optimizer: optax.GradientTransformation, mask: PyTree) -> optax.GradientTransformation:
    """Returns an optimizer that acts inside the mask, with zero updates outside it."""
    outside = jax.tree.map(lambda keep: not keep, mask)
    return optax.chain(optax.masked(optimizer, mask), optax.masked(optax.set_to_zero(), outside))


def _clip(limit: Array) -> optax.GradientTransformation:
    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        scale = jnp.minimum(1.0, limit / jnp.maximum(optax.global_norm(updates), 1e-12))
        return jax.tree.map(lambda leaf: leaf * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _decay(rate: Array) -> optax.GradientTransformation:
    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        return jax.tree.map(lambda update, value: update + rate * value, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
