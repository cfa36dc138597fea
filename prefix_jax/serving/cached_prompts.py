"""What the caches of slots hold, so that a prompt which begins like an earlier one is not computed again."""

from collections.abc import Sequence
from typing import NamedTuple

from prefix_jax.decoding.bank import PLUS


class Beginning(NamedTuple):
    """A slot whose cache begins with the first `kept` tokens of a prompt."""

    slot: int
    kept: int


class CachedPrompts:
    """The tokens whose keys and values lie in each slot's cache, after which prefix; and which slots are free.

    A slot keeps them when its sequence has ended, until another takes the slot.
    """

    def __init__(self, slots: int):
        self._names: list[str | None] = [None] * slots
        self._ids: list[list[int]] = [[] for _ in range(slots)]
        self._free = list(range(slots))  # the one that is free for the longest time first

    @property
    def free(self) -> int:
        """The number of free slots."""
        return len(self._free)

    def take(self, beginning: Beginning | None) -> int:
        """Returns a slot for a new sequence: the one with its beginning where that loses nothing, else the oldest."""
        found = self._free[0]
        if beginning is not None and beginning.slot in self._free:
            whole = beginning.kept == len(self._ids[beginning.slot])
            others = [slot for slot in self._free if slot != beginning.slot]
            found = beginning.slot if whole or not others else others[0]
        self._free.remove(found)
        return found

    def give_back(self, slot: int) -> None:
        """Makes a slot free; its cache stays as it is."""
        self._free.append(slot)

    def hold(self, slot: int, name: str | None, ids: Sequence[int]) -> None:
        """Notes that a slot's cache holds these tokens."""
        self._names[slot], self._ids[slot] = name, list(ids)

    def add(self, slot: int, id: int) -> None:
        """Notes a token more."""
        self._ids[slot].append(id)

    def forget(self, name: str) -> None:
        """Forgets what was computed after a prefix, or after several with it."""
        for slot, known in enumerate(self._names):
            if known is not None and name in (known, *known.split(PLUS)):
                self._names[slot], self._ids[slot] = None, []

    def clear(self) -> None:
        """Forgets everything; all slots are free."""
        self.__init__(len(self._ids))

    def longest(self, name: str | None, ids: Sequence[int]) -> Beginning | None:
        """Returns the slot that holds most of a prompt's first tokens, all but its last, after the same prefix."""
        found = [
            Beginning(slot, _common(held, ids[:-1]))
            for slot, held in enumerate(self._ids)
            if self._names[slot] == name and held
        ]
        best = max(found, key=lambda one: (one.kept, one.slot in self._free), default=None)
        return best if best is not None and best.kept else None


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many first tokens are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
