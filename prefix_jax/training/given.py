"""What a caller in Python gives a run in place of the optimizer and the loss that its configuration describes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prefix_jax.training.loss import loss_sums
from prefix_jax.training.step import Loss


@dataclass(frozen=True)
class Given:
    """An optimizer and a loss; the defaults are those of the configuration (see `step.make_step`)."""

    optimizer: optax.GradientTransformation | None = None
    loss: Loss = loss_sums

    def record(self) -> dict[str, Any]:
        """Returns what `config.json` says of them: the loss by name, the optimizer by the structure of its state."""
        found = {}
        if self.optimizer is not None:
            structure = jax.tree.structure(jax.eval_shape(self.optimizer.init, {"leaf": jnp.zeros(1)}))
            found["optimizer"] = hashlib.sha256(str(structure).encode()).hexdigest()[:16]
        if self.loss is not loss_sums:
            name = getattr(self.loss, "__qualname__", type(self.loss).__name__)
            found["loss"] = f"{getattr(self.loss, '__module__', '')}.{name}"
        return {"given": found} if found else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what a resumed run gets that differs from what it began with, a phrase each.

    Args:
      before: its `config.json`.
      now: what would be written there now (see `Given.record` and `data.in_memory`).
    """
    found = []
    own, other = before.get("given", {}), now.get("given", {})
    for name in ("optimizer", "loss"):
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
    return "an object given in Python" if name == "optimizer" else value
