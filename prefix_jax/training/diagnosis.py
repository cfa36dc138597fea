"""Why a loss is not finite: the frozen weights, what is trained at its start, the data, or the rate."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from prefix_jax.models.finite import fault
from prefix_jax.parallel import hosts
from prefix_jax.training.step import exported
from prefix_jax.training.trainer import Trainer

_SHOWN = 5


def of_weights(trainer: Trainer) -> str:
    """Returns what is wrong with the frozen weights; "" where they are finite."""
    found = fault(trainer.session.base)
    where = f"the frozen weights of {trainer.session.config.model.source}"
    return f"in {where} {found}; get the model again" if found else ""


def cause(trainer: Trainer, step: int, evaluate: Callable) -> str:
    """Returns what is wrong where a run alone has a loss that is not finite, and what to do.

    Args:
      step: the first one with such a loss, from 0.
      evaluate: as `step.make_evaluation` returns it.
    """
    if found := of_weights(trainer):
        return found
    start = exported(trainer.initial())
    if found := fault(start):
        return (
            f"what is trained begins so: {found}; set --config.model.dtype=float32, or begin from random numbers "
            "(prefix.initialisation=random)"
        )
    if not hosts.several() and not _sound(trainer, step, start, evaluate):
        numbers = np.unique(trainer.batches.records_at(step)[0]) + 1
        shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
        return (
            f"the batch of step {step + 1} (training records {shown}) gives no finite loss with what is trained as it "
            "began either, so that the model overflows on these data; set --config.model.dtype=float32, or look at "
            "these records"
        )
    return "weights, start and data are finite; lower --config.optimizer.learning_rate and start in a new --workdir"


def _sound(trainer: Trainer, step: int, start: Any, evaluate: Callable) -> bool:
    """Whether the batch of a step has a finite loss with what is trained as it began."""
    batch, parts = trainer.batch_at(step), trainer.options.accumulation
    for part in range(parts):
        one = batch if parts == 1 else jax.tree.map(lambda leaf: leaf[part], batch)  # noqa: B023
        if not np.isfinite(np.asarray(evaluate(trainer.session.base, start, one))).all():
            return False
    return True
