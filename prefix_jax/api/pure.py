"""The pure parts: prefixes of one's own making, and the numbers of the optimizer."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from prefix_jax.config import default_config
from prefix_jax.models import prefix as pytree
from prefix_jax.models.prefix import PrefixKV
from prefix_jax.training.optimizer import Hyperparameters, hyperparameters_from

Site = PrefixKV | tuple[Array, Array] | None


def prefix(
    decoder: Site = None,
    encoder: Site = None,
    cross: Site = None,
    position_offset: int | None = None,
    infix: bool = False,
) -> pytree.Prefix:
    """Returns a prefix of keys and values of your own, the pytree that `model.apply` takes.

    Args:
      decoder: of self-attention in a decoder-only model or a decoder: keys and values, each `[layers, kv_heads,
        length, head_dim]`, the keys after rotary embedding.
      encoder: of self-attention in an encoder.
      cross: of cross-attention.
      position_offset: the position of the first token; None: the length of the prefix.
      infix: whether it stands between source and target.

    >>> import jax.numpy as jnp
    >>> shape = (lm.config.layers, lm.config.kv_heads, 5, lm.config.head_dim)
    >>> own = pj.prefix(decoder=(jnp.zeros(shape), jnp.ones(shape)))
    >>> tokens = jnp.array([[3, 4, 5]])
    >>> lm.model.apply(lm.variables, tokens, prefix=own).shape
    (1, 3, 400)
    """
    found = pytree.Prefix(_site(decoder), _site(encoder), _site(cross), infix=infix)
    offset = pytree.length(found) if position_offset is None else position_offset
    return found.replace(position_offset=jnp.int32(offset))  # type: ignore[attr-defined]


def _site(given: Site) -> PrefixKV | None:
    if given is None or isinstance(given, PrefixKV):
        return given
    key, value = given
    return PrefixKV(jnp.asarray(key), jnp.asarray(value))


def hyperparameters(learning_rate: float = 2e-3, steps: int = 1000, **options: Any) -> Hyperparameters:
    """Returns the hyperparameters that a step made by `make_step` takes.

    Args:
      learning_rate: the peak.
      steps: length of the schedule.
      **options: others of the section `optimizer`, such as `warmup_steps` and `weight_decay`.

    >>> pj.hyperparameters(learning_rate=1e-2, steps=10, schedule="constant").schedule
    'constant'
    """
    from prefix_jax.api.configuring import with_options

    named = {f"optimizer.{name}": value for name, value in {"learning_rate": learning_rate, **options}.items()}
    return hyperparameters_from(with_options(default_config(), named).optimizer, steps)
