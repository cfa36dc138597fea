"""What is kept of a method after training, and how a model gets it."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import struct
from jaxtyping import PyTree

from prefix_jax.models.adapter_layers import PROMPT, TUNED
from prefix_jax.models.prefix import SITES, Prefix, prefix_of

Variables = Mapping[str, Any]


@struct.dataclass
class TunedState:
    """A prefix, and collections of arrays that layers read beside the frozen `params` (see `models.adapter_layers`).

    The collection `tuned` holds weights in place of frozen ones, in a part of their tree; of a stack of layers, those
    of the last ones.
    """

    prefix: Prefix | None = None
    collections: dict[str, PyTree] = struct.field(default_factory=dict)

    def onto(self, base: Variables) -> dict[str, Any]:
        """Returns the variables that a model takes with the prefix."""
        others = {name: tree for name, tree in self.collections.items() if name != TUNED}
        params, layers = _replaced(base["params"], self.collections.get(TUNED, {}))
        return {**base, "params": params, **others, **({TUNED: layers} if layers else {})}

    @property
    def reserved(self) -> int:
        """How many places at the start of an input hold the virtual tokens of a prompt."""
        return len(self.collections[PROMPT]["embeddings"]) if PROMPT in self.collections else 0

    def joined(self, other: "TunedState") -> "TunedState":
        """Returns both; `other` holds nothing that this one has."""
        return TunedState(
            self.prefix if other.prefix is None else other.prefix, {**self.collections, **other.collections}
        )

    def count(self) -> int:
        """Returns how many numbers are stored."""
        sites = () if self.prefix is None else tuple(prefix_of(self.prefix, name) for name in SITES)
        arrays = [leaf for s in sites if s is not None for leaf in (s.key, s.value, s.bias) if leaf is not None]
        return sum(leaf.size for leaf in [*arrays, *jax.tree.leaves(self.collections)])


def _replaced(params: Mapping[str, Any], tuned: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the parameters with those of `tuned` in their place, and the layers among these for a stack to take."""
    found, layers = dict(params), {}
    for name, value in tuned.items():
        if name == "layers":
            layers[name] = value
        elif isinstance(value, Mapping):
            found[name], below = _replaced(params[name], value)
            layers |= {name: below} if below else {}
        else:
            found[name] = value
    return found, layers
