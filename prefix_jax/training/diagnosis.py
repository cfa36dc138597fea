"""Diagnosis of a non-finite loss: frozen weights, initial trainable tree, data, or learning rate."""

from collections.abc import Callable

import numpy as np

from prefix_jax.models.finite import fault
from prefix_jax.training.step import exported
from prefix_jax.training.trainer import Trainer

_SHOWN = 5


def of_weights(trainer: Trainer) -> str:
    """Returns the fault in the frozen weights; "" if they are finite."""
    found = fault(trainer.session.base)
    where = f"the frozen weights of {trainer.session.config.model.source}"
    return f"in {where} {found}; get the model again" if found else ""


def cause(trainer: Trainer, step: int, take: Callable) -> str:
    """Returns the cause of a single run's non-finite loss, with a fix.

    Args:
      step: first step with a non-finite loss or gradient, from 0.
      take: compiled step of `step.make_step`.
    """
    if found := of_weights(trainer):
        return found
    if found := fault(exported(trainer.initial())):
        return (
            f"what is trained begins so: {found}; set --config.model.dtype=float32, or begin from random numbers "
            "(prefix.initialisation=random)"
        )
    # A non-finite gradient shows in the loss of the following step.
    for number in range(max(step - 1, 0), step + 1):
        if not _sound(trainer, number, take):
            return (
                f"the batch of step {number + 1} (training records {_records(trainer, number)}) gives no finite "
                "numbers with what is trained as it began either, so that the model overflows on these data; set "
                "--config.model.dtype=float32, or look at these records"
            )
    return (
        "lower --config.optimizer.learning_rate and start in a new --workdir (the frozen weights, what is trained as "
        "it began, and the batch give finite numbers)"
    )


def _sound(trainer: Trainer, step: int, take: Callable) -> bool:
    """Returns whether a step's batch has finite loss and gradient at the initial trainable tree."""
    _, metrics = take(trainer.session.base, trainer.hyper, trainer.initial(), trainer.batch_at(step))
    return bool(np.isfinite([float(metrics["loss"]), float(metrics["gradient_norm"])]).all())


def _records(trainer: Trainer, step: int) -> str:
    numbers = np.unique(trainer.batches.records_at(step)[0]) + 1
    return ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
