"""A bank of tuned states of one model by name: prefixes, prompts and LoRA, of which every row of a batch names its own.

They lie on shelves (see `decoding.shelf`) by their sizes, so that a batch of short prefixes does not pay for a long
one. Filling a slot compiles nothing but the first time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from prefix_jax.decoding.shelf import Kind, Shelf, check_fits, empty, filled, grown, kind_of, of_state
from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Prefix, check
from prefix_jax.tuning import TunedState

# Joins the names of prefixes that a row sees together.
PLUS = "+"


class Place(NamedTuple):
    """Where a tuned state lies."""

    kind: Kind
    slot: int


class Bank:
    """Tuned states of one model by name, on shelves.

    A shelf doubles when it is full, up to `slots` states in all; then the least recently used state leaves that is
    not in use.
    """

    def __init__(self, model_config: ModelConfig, slots: int = 1024, kind: Kind | None = None):
        """Args:
          slots: largest number of tuned states.
          kind: the only shelf, with all of its slots from the start, so that programs compiled for it stay valid.

        Raises:
          UserError: `slots` is below 1.
        """
        if slots < 1:
            raise UserError(f"a bank of {slots} slots holds nothing; give it at least 1")
        self.model_config, self.slots = model_config, slots
        self.shelves: dict[Kind, Shelf] = {}
        self._places: dict[str, Place] = {}  # the least recently used first
        self._free: dict[Kind, list[int]] = {}
        self._used: dict[str, int] = {}
        self._only = kind
        if kind is not None:
            self.shelves[kind] = empty(model_config, slots + 1, kind)
            self._free[kind] = list(range(1, slots + 1))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def names(self) -> list[str]:
        """The names of the prefixes, the least recently used first."""
        return list(self._places)

    def put(self, name: str, state: TunedState | Prefix) -> None:
        """Adds a tuned state, or replaces the one of that name.

        Raises:
          UserError: it does not suit the model, the one of that name is in use, or all slots are.
        """
        state = TunedState(state) if isinstance(state, Prefix) else state
        if state.prefix is not None:
            check(state.prefix, self.model_config)
        kind = self._only or kind_of(state)
        check_fits(name, state, kind)
        if name in self._places:
            self.remove(name)
        else:
            self._make_room()
        slot = self._slot(kind)
        one = of_state(state, self.model_config, kind)
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

    def reserved(self, name: str) -> int:
        """Returns how many places at the start of an input hold the virtual tokens of a state's prompt."""
        place = self._of(name)
        return int(self.shelves[place.kind].reserved[place.slot])

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
            self.shelves[kind] = empty(self.model_config, 2, kind)
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
        kind = max(groups, key=lambda one: len(groups[one]), default=kind_of(TunedState()))
        groups[kind] = sorted([*groups.get(kind, []), *bare])
    return groups
