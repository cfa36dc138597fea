"""What a caller in Python gives a run in place of the optimizer and the loss that its configuration describes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prefix_jax.data.tokens import TokenisedSet
from prefix_jax.errors import UserError
from prefix_jax.models.prefix import Prefix
from prefix_jax.options import Config
from prefix_jax.training.loss import loss_sums
from prefix_jax.training.step import Loss
from prefix_jax.tuning import Method, names, prefix


@dataclass(frozen=True)
class Given:
    """An optimizer and a loss; the defaults are those of the configuration (see `step.make_step`).

    Attributes:
      sets: token ids by split, in place of those of the configuration's records.
      start: the prefix that training begins with, where `prefix.initialisation` is "given".
    """

    optimizer: optax.GradientTransformation | None = None
    loss: Loss = loss_sums
    sets: Mapping[str, TokenisedSet] = field(default_factory=dict)
    start: Prefix | None = None

    def started(self, method: Method, config: Config) -> Method:
        """Returns a configuration's method, which begins with the prefix where it is to begin with a given one.

        Raises:
          UserError: the configuration wants a prefix and has none, or another one.
        """
        wanted = [name for name in names(config) if config[name].get("initialisation") == prefix.GIVEN]
        if not wanted:
            return method
        if self.start is None or config.method != prefix.METHOD.name:
            raise UserError(
                f"{wanted[0]}.initialisation is {prefix.GIVEN}, which is for method=prefix and a prefix that the "
                f"caller has, as prefix-jax distill does; set --config.{wanted[0]}.initialisation to another"
            )
        trainable = prefix.trainable_of(self.start, config.prefix)
        return method._replace(init=lambda key, base: trainable)

    def record(self) -> dict[str, Any]:
        """Returns what `config.json` says of them: the loss by name, the optimizer by the structure of its state."""
        found = {}
        if self.optimizer is not None:
            structure = jax.tree.structure(jax.eval_shape(self.optimizer.init, {"leaf": jnp.zeros(1)}))
            found["optimizer"] = hashlib.sha256(str(structure).encode()).hexdigest()[:16]
        if self.loss is not loss_sums:
            name = getattr(self.loss, "__qualname__", type(self.loss).__name__)
            found["loss"] = f"{getattr(self.loss, '__module__', '')}.{name}"
        if self.start is not None:
            found["start"] = _hashed(jax.tree.leaves(self.start))
        for split, data in self.sets.items():
            parts = (*data.sources, *data.targets, data.trained, *(data.soft or ()))
            found[f"{split} token ids"] = _hashed([part for part in parts if part is not None])
        return {"given": found} if found else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what a resumed run gets that differs from what it began with, a phrase each.

    Args:
      before: its `config.json`.
      now: what would be written there now (see `Given.record` and `data.in_memory`).
    """
    found = []
    own, other = before.get("given", {}), now.get("given", {})
    for name in sorted({"optimizer", "loss"} | own.keys() | other.keys()):
        if own.get(name) != other.get(name):
            was, is_now = (_described(name, value.get(name)) for value in (own, other))
            found.append(f"{name} was {was} and is now {is_now if is_now != was else 'another'}")
    records, others = before.get("records", {}), now.get("records", {})
    for split in sorted(records.keys() & others.keys()):
        if records[split] != others[split]:
            counts = records[split].get("count"), others[split]["count"]
            found.append(f"the {split} records in memory are others ({counts[0]} then, {counts[1]} now)")
    return found


def _described(name: str, value: str | None) -> str:
    if value is None:
        return "that of the configuration"
    return value if name == "loss" else "an object given in Python"


def _hashed(arrays: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape} ".encode() + np.asarray(array).tobytes())
    return digest.hexdigest()[:16]
