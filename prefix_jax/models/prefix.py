"""The prefix as a pytree: trained keys and values that attention layers see before the tokens."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig

SITES = ("encoder", "decoder", "cross")


@struct.dataclass
class PrefixKV:
    """The prefix of one site, stacked over the layers that carry one.

    Keys are stored after rotary embedding. `bias` is added to the logits of the slots (-inf closes a slot). `layers`
    lists the layers that carry a prefix, in order; None: all of them. Without `rows` every row of a batch sees the same
    prefix; with them each row has its own (see `decoding.bank`).
    """

    key: Float[Array, "layers *rows kv_heads length head_dim"]
    value: Float[Array, "layers *rows kv_heads length head_dim"]
    bias: Float[Array, "layers *queries kv_heads length"] | None = None
    layers: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class Prefix:
    """The `prefix` argument of a model. `position_offset` is the position of the first token.

    An infix is visible from the last source token on, and only those tokens are shifted by `position_offset`.
    With ALiBi, slots have no position bias, so that every query sees them alike, however far it is; with `distances`
    they stand at positions 0, 1, ... and have the bias of their distance. Where each row has a prefix of its own,
    `position_offset` is `[rows, 1]`.
    """

    decoder: PrefixKV | None = None
    encoder: PrefixKV | None = None
    cross: PrefixKV | None = None
    position_offset: Array | int = 0
    infix: bool = struct.field(pytree_node=False, default=False)
    distances: bool = struct.field(pytree_node=False, default=False)


class Past(NamedTuple):
    """Keys and values of earlier tokens, stacked over layers; `batch` is a leading part of the query's batch shape.

    `mask` and `positions` apply to every layer; positions count tokens, for sliding windows and relative positions.
    """

    key: Float[Array, "layers *batch kv_heads past head_dim"]
    value: Float[Array, "layers *batch kv_heads past head_dim"]
    mask: Array
    positions: Int[Array, "*batch past"]


class KeyValues(NamedTuple):
    """Keys and values computed by a call, stacked over layers: `[layers, *batch, kv_heads, length, head_dim]`."""

    key: Array
    value: Array


def for_beams(prefix: Prefix | None) -> Prefix | None:
    """Returns a prefix for queries with an axis of beams after that of rows."""
    if prefix is None or not has_rows(prefix):
        return prefix

    def site(own: PrefixKV) -> PrefixKV:
        return own if own.bias is None else dataclasses.replace(own, bias=own.bias[:, :, None])

    sites = {name: site(own) for name in SITES if (own := prefix_of(prefix, name)) is not None}
    return dataclasses.replace(prefix, position_offset=jnp.asarray(prefix.position_offset)[..., None], **sites)


def has_rows(prefix: Prefix) -> bool:
    """Returns whether each row of a batch has a prefix of its own."""
    return jnp.ndim(prefix.position_offset) > 0


def prefix_of(prefix: Prefix | None, site: str) -> PrefixKV | None:
    return None if prefix is None else getattr(prefix, site)


def length(prefix: Prefix) -> int:
    """Returns the number of virtual tokens, the maximum over sites."""
    return max((s.key.shape[-2] for s in (prefix.encoder, prefix.decoder, prefix.cross) if s is not None), default=0)


def shortened(prefix: Prefix, length: Int[Array, ""]) -> Prefix:
    """Closes all slots after the first `length` (may be traced), which is equivalent to a shorter prefix."""

    def closed(site: PrefixKV) -> PrefixKV:
        bias = jnp.where(jnp.arange(site.key.shape[-2]) < length, 0.0, -jnp.inf)
        bias = jnp.broadcast_to(bias, site.key.shape[:-1])
        return dataclasses.replace(site, bias=bias if site.bias is None else site.bias + bias)

    sites = {name: closed(site) for name in SITES if (site := prefix_of(prefix, name)) is not None}
    return dataclasses.replace(prefix, position_offset=jnp.minimum(prefix.position_offset, length), **sites)


def check(prefix: Prefix, model_config: ModelConfig) -> None:
    """Raises UserError unless the prefix has the shapes of the model's attention."""
    for name in SITES:
        site = prefix_of(prefix, name)
        if site is None:
            continue
        if name not in model_config.sites:
            raise UserError(f'the prefix has a site "{name}", but the model has only {", ".join(model_config.sites)}')
        layers = model_config.site_layers(name) if site.layers is None else len(site.layers)
        expected = (layers, model_config.kv_heads, site.key.shape[-2], model_config.head_dim)
        if site.key.shape[1] == model_config.cached_heads != model_config.kv_heads:
            raise UserError(
                f"the prefix has {site.key.shape[1]} {name} heads, as transformers' cache does, and this model "
                f"{model_config.kv_heads}; convert it again and name the model with --model"
            )
        if site.key.shape != expected or site.value.shape != expected:
            raise UserError(
                f"the prefix's {name} keys and values are {site.key.shape} and {site.value.shape}, but this model "
                f"takes {expected} (layers, KV heads, length, head dimension); use the model the prefix was made for"
            )
        if site.layers is not None and not all(0 <= layer < model_config.site_layers(name) for layer in site.layers):
            raise UserError(
                f"the prefix names {name} layers {site.layers}, but there are {model_config.site_layers(name)}"
            )


def parse_layers(text: str, count: int) -> tuple[int, ...] | None:
    """Parses a layer list such as "0-5,11"; returns None for "all".

    Raises:
      UserError: the text is malformed or lists a layer out of range.
    """
    if text in ("all", ""):
        return None
    try:
        chosen = set()
        for part in str(text).split(","):
            first, _, last = part.strip().partition("-")
            chosen.update(range(int(first), int(last or first) + 1))
    except ValueError:
        raise UserError(f'layers "{text}" is not "all" or a list such as "0-5,11"') from None
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise UserError(f'layers "{text}" must name layers from 0 to {count - 1}')
    return None if len(chosen) == count else tuple(sorted(chosen))


def offset(prefix: Prefix | None) -> Array | int:
    return 0 if prefix is None else jnp.asarray(prefix.position_offset)
