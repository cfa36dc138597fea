"""Arrays with a slot for each of many tuned states, from which every row of a batch names its own.

A shelf holds states of one kind: prefixes, prompts and updates of LoRA up to given sizes, in all sites and layers of a
model. What a state lacks is closed (bias -inf) or zero.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from prefix_jax.errors import UserError
from prefix_jax.models.adapter_layers import LORA, PROMPT
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import SITES, Prefix, PrefixKV, length, prefix_of
from prefix_jax.tuning import TunedState

# The slot of a shelf that holds nothing, for rows without a tuned state.
NONE = 0
# Shelves have lengths of this times a power of two.
SHORTEST = 8
# Collections that rows can have of their own.
OF_ROWS = (LORA, PROMPT)


class Updated(NamedTuple):
    """A projection that LoRA updates: its place in the tree, and the shapes of the matrices, without the rank."""

    path: tuple[str, ...]
    layers: int
    inputs: int
    outputs: tuple[int, ...]

    def __str__(self) -> str:
        return "/".join(self.path)


class Kind(NamedTuple):
    """What the states on one shelf share: the greatest length of prefixes and how they are seen, the greatest length
    of prompts, and the greatest rank of LoRA with the projections that it updates.
    """

    capacity: int
    infix: bool = False
    distances: bool = False
    prompt: int = 0
    rank: int = 0
    updated: tuple[Updated, ...] = ()


@struct.dataclass
class Shelf:
    """Tuned states of one kind as arrays with a leading slot axis; closed slots of a prefix have the bias -inf.

    `prompts` are embeddings, of which the first `reserved` belong to a slot's state. `lora` has the matrices of the
    projections, in the order of `kind.updated`: `a` is `[slots, layers, inputs, rank]`, `b` `[slots, layers, rank,
    *outputs]`.
    """

    keys: dict[str, Float[Array, "slots layers kv_heads length head_dim"]]
    values: dict[str, Float[Array, "slots layers kv_heads length head_dim"]]
    biases: dict[str, Float[Array, "slots layers kv_heads length"]]
    offsets: Int[Array, "slots"]
    prompts: Float[Array, "slots prompt width"]
    reserved: Int[Array, "slots"]
    lora: tuple[dict[str, Array], ...]
    kind: Kind = struct.field(pytree_node=False)


def kind_of(state: TunedState) -> Kind:
    """Returns the kind of shelf that a tuned state needs."""
    prefix = state.prefix
    found = Kind(SHORTEST) if prefix is None else Kind(_doubled(length(prefix)), prefix.infix, prefix.distances)
    pairs = dict(_pairs(state.collections.get(LORA, {})))
    rank = max((pair["a"].shape[-1] for pair in pairs.values()), default=0)
    updated = tuple(
        Updated(path, pair["a"].shape[0], pair["a"].shape[1], tuple(pair["b"].shape[2:]))
        for path, pair in sorted(pairs.items())
    )
    prompt = _doubled(state.reserved) if state.reserved else 0
    return found._replace(prompt=prompt, rank=_doubled(rank, 1) if rank else 0, updated=updated)


def widest(kinds: Sequence[Kind]) -> Kind:
    """Returns the kind of a shelf on which states of several kinds lie; as the first ones prefixes are seen."""
    first = kinds[0]
    greatest = lambda name: max(getattr(kind, name) for kind in kinds)
    updated = tuple(sorted({one for kind in kinds for one in kind.updated}))
    sizes = {name: greatest(name) for name in ("capacity", "prompt", "rank")}
    return first._replace(**sizes, updated=updated)


def check_fits(name: str, state: TunedState, kind: Kind) -> None:
    """Raises UserError unless a state can lie on a shelf of a kind."""
    prefix, own = state.prefix, kind_of(state)
    if prefix is not None:
        if prefix.infix != kind.infix:
            what = "an infix" if prefix.infix else "a prefix"
            raise UserError(f'"{name}" is {what}, unlike the others; leave it out')
        if prefix.distances != kind.distances:
            raise UserError(f'"{name}" has other position biases than the others (option `distances`); leave it out')
        if length(prefix) > kind.capacity:
            raise UserError(f'"{name}" has {length(prefix)} virtual tokens, and there is room for {kind.capacity}')
    if state.reserved > kind.prompt:
        raise UserError(f'"{name}" has a prompt of {state.reserved} embeddings, and there is room for {kind.prompt}')
    if own.rank > kind.rank:
        raise UserError(f'"{name}" has LoRA of rank {own.rank}, and there is room for rank {kind.rank}')
    more = [str(one) for one in own.updated if one not in kind.updated]
    if more:
        raise UserError(f'"{name}" has LoRA on {more[0]}, and there is room for it on {_list(kind.updated)} only')


def _list(updated: Sequence[Updated]) -> str:
    return ", ".join(map(str, updated)) or "nothing"


def _doubled(count: int, first: int = SHORTEST) -> int:
    capacity = first
    while capacity < count:
        capacity *= 2
    return capacity


def _pairs(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yields the pairs of matrices of a collection of LoRA, with their places."""
    if "a" in tree:
        yield path, tree
        return
    for name, below in tree.items():
        yield from _pairs(below, (*path, name))


def empty(model_config: ModelConfig, slots: int, kind: Kind) -> Shelf:
    """Returns a shelf of `slots` empty slots, the first of which stays empty."""
    shapes = {
        site: (slots, model_config.site_layers(site), model_config.kv_heads, kind.capacity, model_config.head_dim)
        for site in model_config.sites
    }
    zeros = lambda: {site: jnp.zeros(shape, jnp.float32) for site, shape in shapes.items()}
    lora = tuple(
        {
            "a": jnp.zeros((slots, one.layers, one.inputs, kind.rank), jnp.float32),
            "b": jnp.zeros((slots, one.layers, kind.rank, *one.outputs), jnp.float32),
        }
        for one in kind.updated
    )
    return Shelf(
        keys=zeros(),
        values=zeros(),
        biases={site: jnp.full(shape[:-1], -jnp.inf, jnp.float32) for site, shape in shapes.items()},
        offsets=jnp.zeros(slots, jnp.int32),
        prompts=jnp.zeros((slots, kind.prompt, model_config.embedding_width), jnp.float32),
        reserved=jnp.zeros(slots, jnp.int32),
        lora=lora,
        kind=kind,
    )


@partial(jax.jit, donate_argnums=0)
def filled(shelf: Shelf, slot: Int[Array, ""], one: Shelf) -> Shelf:
    """Returns the shelf with a slot replaced by the state on `one`, a shelf of one slot; reuses its memory."""
    return jax.tree.map(lambda whole, row: jax.lax.dynamic_update_index_in_dim(whole, row[0], slot, 0), shelf, one)


@partial(jax.jit, static_argnums=1)
def grown(shelf: Shelf, slots: int) -> Shelf:
    """Returns the shelf with more slots, which are closed."""

    def more(leaf: Array, fill: float = 0) -> Array:
        return jnp.pad(leaf, ((0, slots - leaf.shape[0]), *((0, 0),) * (leaf.ndim - 1)), constant_values=fill)

    biases = {name: more(leaf, -jnp.inf) for name, leaf in shelf.biases.items()}
    return dataclasses.replace(jax.tree.map(more, shelf), biases=biases)


def rows_of(shelf: Shelf, slots: Int[Array, "rows"]) -> TunedState:
    """Returns the tuned states of a batch whose rows name their slots."""

    def take(leaf: Array) -> Array:
        return jnp.moveaxis(jnp.take(leaf, slots, axis=0), 0, 1)

    kind, collections = shelf.kind, {}
    sites = {
        name: PrefixKV(take(shelf.keys[name]), take(shelf.values[name]), take(shelf.biases[name]))
        for name in shelf.keys
    }
    offsets = jnp.take(shelf.offsets, slots)[:, None]
    prefix = Prefix(**sites, position_offset=offsets, infix=kind.infix, distances=kind.distances)
    if kind.prompt:
        reserved = jnp.take(shelf.reserved, slots)
        collections[PROMPT] = {"embeddings": jnp.take(shelf.prompts, slots, axis=0), "reserved": reserved}
    if kind.rank:
        pairs = [jax.tree.map(take, pair) for pair in shelf.lora]
        collections[LORA] = _tree({one.path: pair for one, pair in zip(kind.updated, pairs, strict=True)})
    return TunedState(prefix, collections)


def _tree(pairs: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Inverts `_pairs`."""
    found: dict[str, Any] = {}
    for path, pair in pairs.items():
        place = found
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = pair
    return found


def of_state(state: TunedState, model_config: ModelConfig, kind: Kind) -> Shelf:
    """Returns a tuned state as a shelf of one slot."""
    one = jax.tree.map(lambda leaf: np.array(leaf), empty(model_config, 1, kind))
    for name in SITES:
        site = prefix_of(state.prefix, name)
        if site is None:
            continue
        layers = list(range(len(site.key)) if site.layers is None else site.layers)
        count = site.key.shape[-2]
        one.keys[name][0, layers, :, :count] = site.key
        one.values[name][0, layers, :, :count] = site.value
        one.biases[name][0, layers, :, :count] = 0 if site.bias is None else site.bias
    if state.prefix is not None:
        one.offsets[0] = state.prefix.position_offset
    if state.reserved:
        one.prompts[0, : state.reserved], one.reserved[0] = state.collections[PROMPT]["embeddings"], state.reserved
    places = {updated.path: pair for updated, pair in zip(kind.updated, one.lora, strict=True)}
    for path, pair in _pairs(state.collections.get(LORA, {})):
        rank = pair["a"].shape[-1]
        places[path]["a"][0, :, :, :rank] = pair["a"]
        places[path]["b"][0, :, :rank] = pair["b"]
    return one


def joined(prefixes: Sequence[Prefix], model_config: ModelConfig) -> Prefix:
    """Returns the slots of several prefixes side by side, which every query sees together.

    Slots carry no position. The text starts at the largest `position_offset` of the parts, a place that one of them
    was tuned with; in PEFT's convention it would be their sum, which none was.

    Raises:
      UserError: some are infixes or have ALiBi distances, and others do not.
    """
    first = prefixes[0]
    if len(prefixes) == 1:
        return first
    if any((one.infix, one.distances) != (first.infix, first.distances) for one in prefixes):
        raise UserError("a prefix and an infix, or with and without distances, cannot be joined; join those of a kind")
    parts = [of_state(TunedState(one), model_config, Kind(length(one))) for one in prefixes]

    def side_by_side(name: str) -> PrefixKV:
        key = np.concatenate([part.keys[name][0] for part in parts], axis=-2)
        value = np.concatenate([part.values[name][0] for part in parts], axis=-2)
        bias = np.concatenate([part.biases[name][0] for part in parts], axis=-1)
        return PrefixKV(jnp.asarray(key), jnp.asarray(value), jnp.asarray(bias))

    sites = {name: side_by_side(name) for name in parts[0].keys}
    offset = max(one.position_offset for one in prefixes)
    return Prefix(**sites, position_offset=offset, infix=first.infix, distances=first.distances)
