"""A bank of prefixes: arrays with a slot for each, from which every row of a batch names its own.

All shelves of a bank have the sites of one model and all of its layers. A shelf holds prefixes of up to its length, so
that a batch of short prefixes does not pay for a long one. Filling a slot compiles nothing but the first time.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import SITES, Prefix, PrefixKV, check, length, prefix_of

# The slot of a shelf that holds no prefix, for rows without one.
NONE = 0
# Joins the names of prefixes that a row sees together.
PLUS = "+"
# Shelves have lengths of this times a power of two.
SHORTEST = 8


@struct.dataclass
class Shelf:
    """Prefixes of one kind as arrays with a leading slot axis; closed slots of a prefix have the bias -inf.

    `infix` and `distances` are those of every prefix on the shelf.
    """

    keys: dict[str, Float[Array, "slots layers kv_heads length head_dim"]]
    values: dict[str, Float[Array, "slots layers kv_heads length head_dim"]]
    biases: dict[str, Float[Array, "slots layers kv_heads length"]]
    offsets: Int[Array, "slots"]
    infix: bool = struct.field(pytree_node=False, default=False)
    distances: bool = struct.field(pytree_node=False, default=False)


def empty(model_config: ModelConfig, slots: int, length: int, infix: bool = False, distances: bool = False) -> Shelf:
    """Returns a shelf of `slots` empty slots, the first of which stays empty."""
    shapes = {
        site: (slots, model_config.site_layers(site), model_config.kv_heads, length, model_config.head_dim)
        for site in model_config.sites
    }
    zeros = {site: jnp.zeros(shape, jnp.float32) for site, shape in shapes.items()}
    closed = {site: jnp.full(shape[:-1], -jnp.inf, jnp.float32) for site, shape in shapes.items()}
    others = {site: jnp.zeros(shape, jnp.float32) for site, shape in shapes.items()}
    return Shelf(zeros, others, closed, jnp.zeros(slots, jnp.int32), infix, distances)


@partial(jax.jit, donate_argnums=0)
def filled(shelf: Shelf, slot: Int[Array, ""], one: Shelf) -> Shelf:
    """Returns the shelf with a slot replaced by the prefix on `one`, a shelf of one slot; reuses its memory."""
    return jax.tree.map(lambda whole, row: jax.lax.dynamic_update_index_in_dim(whole, row[0], slot, 0), shelf, one)


@partial(jax.jit, static_argnums=1)
def grown(shelf: Shelf, slots: int) -> Shelf:
    """Returns the shelf with more slots, which are closed."""

    def more(leaf: Array, fill: float) -> Array:
        return jnp.pad(leaf, ((0, slots - leaf.shape[0]), *((0, 0),) * (leaf.ndim - 1)), constant_values=fill)

    return Shelf(
        {name: more(leaf, 0) for name, leaf in shelf.keys.items()},
        {name: more(leaf, 0) for name, leaf in shelf.values.items()},
        {name: more(leaf, -jnp.inf) for name, leaf in shelf.biases.items()},
        more(shelf.offsets, 0),
        shelf.infix,
        shelf.distances,
    )


def rows_of(shelf: Shelf, slots: Int[Array, "rows"]) -> Prefix:
    """Returns the prefix of a batch whose rows name their slots."""

    def take(leaf: Array) -> Array:
        return jnp.moveaxis(jnp.take(leaf, slots, axis=0), 0, 1)

    sites = {
        name: PrefixKV(take(shelf.keys[name]), take(shelf.values[name]), take(shelf.biases[name]))
        for name in shelf.keys
    }
    return Prefix(
        **sites, position_offset=jnp.take(shelf.offsets, slots)[:, None], infix=shelf.infix, distances=shelf.distances
    )


def of_prefix(prefix: Prefix, model_config: ModelConfig, capacity: int) -> Shelf:
    """Returns a prefix as a shelf of one slot; layers, sites and slots that it lacks are closed."""
    one = jax.tree.map(lambda leaf: np.array(leaf), empty(model_config, 1, capacity, prefix.infix, prefix.distances))
    for name in SITES:
        site = prefix_of(prefix, name)
        if site is None:
            continue
        layers = list(range(len(site.key)) if site.layers is None else site.layers)
        count = site.key.shape[-2]
        one.keys[name][0, layers, :, :count] = site.key
        one.values[name][0, layers, :, :count] = site.value
        one.biases[name][0, layers, :, :count] = 0 if site.bias is None else site.bias
    return dataclasses.replace(one, offsets=np.array([prefix.position_offset], np.int32))


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
    parts = [of_prefix(one, model_config, length(one)) for one in prefixes]

    def side_by_side(name: str) -> PrefixKV:
        key = np.concatenate([part.keys[name][0] for part in parts], axis=-2)
        value = np.concatenate([part.values[name][0] for part in parts], axis=-2)
        bias = np.concatenate([part.biases[name][0] for part in parts], axis=-1)
        return PrefixKV(jnp.asarray(key), jnp.asarray(value), jnp.asarray(bias))

    sites = {name: side_by_side(name) for name in parts[0].keys}
    offset = max(one.position_offset for one in prefixes)
    return Prefix(**sites, position_offset=offset, infix=first.infix, distances=first.distances)


class Kind(NamedTuple):
    """What prefixes on one shelf share: a capacity, and how they are seen."""

    capacity: int
    infix: bool
    distances: bool


class Place(NamedTuple):
    """Where a prefix lies."""

    kind: Kind
    slot: int


def kind_of(prefix: Prefix | None) -> Kind:
    """Returns the shelf that a prefix needs."""
    if prefix is None:
        return Kind(SHORTEST, False, False)
    capacity = SHORTEST
    while capacity < length(prefix):
        capacity *= 2
    return Kind(capacity, prefix.infix, prefix.distances)


def _fitting(name: str, prefix: Prefix, kind: Kind) -> Kind:
    """Returns the only kind of a bank, after checking that a prefix is of that kind."""
    if prefix.infix != kind.infix:
        raise UserError(f'"{name}" is {"an infix" if prefix.infix else "no infix"}, unlike the others; leave it out')
    if prefix.distances != kind.distances:
        raise UserError(f'"{name}" has other position biases than the others (method option `distances`); leave it out')
    if length(prefix) > kind.capacity:
        raise UserError(f'"{name}" has {length(prefix)} virtual tokens, and there is room for {kind.capacity}')
    return kind


class Bank:
    """Prefixes of one model by name, on shelves.

    A shelf doubles when it is full, up to `slots` prefixes in all; then the least recently used prefix leaves that is
    not in use.
    """

    def __init__(self, model_config: ModelConfig, slots: int = 1024, kind: Kind | None = None):
        """Args:
          slots: largest number of prefixes.
          kind: the only shelf, with all of its slots from the start, so that programs compiled for it stay valid.

        Raises:
          UserError: `slots` is below 1.
        """
        if slots < 1:
            raise UserError(f"a bank of {slots} prefixes holds nothing; give at least 1")
        self.model_config, self.slots = model_config, slots
        self.shelves: dict[Kind, Shelf] = {}
        self._places: dict[str, Place] = {}  # the least recently used first
        self._free: dict[Kind, list[int]] = {}
        self._used: dict[str, int] = {}
        self._only = kind
        if kind is not None:
            self.shelves[kind] = empty(model_config, slots + 1, *kind)
            self._free[kind] = list(range(1, slots + 1))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def names(self) -> list[str]:
        """The names of the prefixes, the least recently used first."""
        return list(self._places)

    def put(self, name: str, prefix: Prefix) -> None:
        """Adds a prefix, or replaces the one of that name.

        Raises:
          UserError: it does not suit the model, the one of that name is in use, or all slots are.
        """
        check(prefix, self.model_config)
        kind = kind_of(prefix) if self._only is None else _fitting(name, prefix, self._only)
        if name in self._places:
            self.remove(name)
        else:
            self._make_room()
        slot = self._slot(kind)
        one = of_prefix(prefix, self.model_config, kind.capacity)
        self.shelves[kind] = filled(self.shelves[kind], np.int32(slot), one)
        self._places[name] = Place(kind, slot)

    def remove(self, name: str) -> None:
        """Removes a prefix.

        Raises:
          UserError: there is none of that name, or it is in use.
        """
        place = self._of(name)
        if self._used.get(name):
            raise UserError(f'the prefix "{name}" is in use; try again when its requests have ended')
        del self._places[name]
        self._free[place.kind].append(place.slot)

    def forget(self, name: str) -> None:
        """Removes a prefix, and those that it is a part of, as "a" is of "a+b"; there need not be any.

        Raises:
          UserError: one is in use.
        """
        for known in [one for one in self._places if name in one.split(PLUS)]:
            self.remove(known)

    def acquire(self, name: str) -> Place:
        """Returns where a prefix lies, which keeps it until `release`."""
        place = self._of(name)
        self._places[name] = self._places.pop(name)  # the most recently used is last
        self._used[name] = self._used.get(name, 0) + 1
        return place

    def release(self, name: str) -> None:
        """Ends a use of a prefix."""
        self._used[name] -= 1
        if not self._used[name]:
            del self._used[name]

    def offset(self, name: str) -> int:
        """Returns the position offset of a prefix."""
        place = self._of(name)
        return int(self.shelves[place.kind].offsets[place.slot])

    @contextmanager
    def using(self, names: Sequence[str | None]) -> Iterator[list[Place | None]]:
        """Returns where prefixes lie, which keeps them within a `with` block."""
        taken: list[str] = []
        try:
            places: list[Place | None] = []
            for name in names:
                places.append(None if name is None else self.acquire(name))
                if name is not None:
                    taken.append(name)
            yield places
        finally:
            for name in taken:
                self.release(name)

    def _of(self, name: str) -> Place:
        if name not in self._places:
            known = ", ".join(f'"{one}"' for one in list(self._places)[:10]) or "none"
            raise UserError(f'there is no prefix "{name}" in the bank; known are {known}')
        return self._places[name]

    def _make_room(self) -> None:
        if len(self._places) < self.slots:
            return
        unused = next((name for name in self._places if not self._used.get(name)), None)
        if unused is None:
            raise UserError(f"all {self.slots} prefixes of the bank are in use; try again later, or give it more slots")
        self.remove(unused)

    def _slot(self, kind: Kind) -> int:
        """Returns a free slot of a shelf, which is made or doubled where there is none."""
        shelf = self.shelves.get(kind)
        if shelf is None:
            self.shelves[kind] = empty(self.model_config, 2, *kind)
            self._free[kind] = [1]
        elif not self._free[kind]:
            count = len(shelf.offsets)
            self.shelves[kind] = grown(shelf, 2 * count)
            self._free[kind] = list(range(count, 2 * count))
        return self._free[kind].pop(0)


def grouped(places: Sequence[Place | None]) -> Mapping[Kind, list[int]]:
    """Returns the rows whose prefixes lie on one shelf; rows without a prefix join the largest group."""
    groups: dict[Kind, list[int]] = {}
    for row, place in enumerate(places):
        if place is not None:
            groups.setdefault(place.kind, []).append(row)
    bare = [row for row, place in enumerate(places) if place is None]
    if bare:
        kind = max(groups, key=lambda one: len(groups[one]), default=kind_of(None))
        groups[kind] = sorted([*groups.get(kind, []), *bare])
    return groups
