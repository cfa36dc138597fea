"""Members of a sweep trained together, beside the same runs one after another: seconds of a step of each."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.files import Row
from benchmarks.jax_side import Ours
from prefix_jax.data.batching import Batch
from prefix_jax.training.step import TrainState, make_step

COUNTS = (1, 2, 4, 8, 16)
RECORDS = (1, 2, 16)  # of a step, for the comparison at `EIGHT` members
EIGHT = 8
GROWING = 2  # records of a step where the members grow
ROUNDS = 3


def compare(source: str, dtype: str, rows: list[Row]) -> dict[str, Any]:
    """Returns, for each number of records a step, seconds of `EIGHT` solo steps over those of one step together."""
    ours = Ours(source, dtype)
    return {str(records): _pair(ours, rows, records, EIGHT) for records in RECORDS}


def grow(source: str, dtype: str, rows: list[Row]) -> list[dict[str, Any]]:
    """Returns a row for each number of members."""
    ours = Ours(source, dtype)
    return [{"x": count, **_pair(ours, rows, GROWING, count)} for count in COUNTS]


def _pair(ours: Ours, rows: list[Row], records: int, count: int) -> dict[str, Any]:
    """Both sides take turns; a batch is the same for both, and of one shape."""
    steps = max(1, 4 // records)  # of each side in a round
    packed = ours.batches(rows[: records * (steps + 1)], records)
    parts = [packed.batch_at(step) for step in range(steps)]
    together = Together(ours, count)
    began = time.perf_counter()
    together.step(parts[0])
    first = time.perf_counter() - began
    ours.step(parts[0])
    alone_times, together_times = [], []
    for _ in range(ROUNDS):
        alone_times.append(_seconds(ours.step, parts))
        together_times.append(_seconds(together.step, parts))
    alone, shared = statistics.median(alone_times), statistics.median(together_times)
    return {
        "members": count,
        "records": records,
        "seconds": shared,
        "seconds_of_one_alone": alone,
        "gain": count * alone / shared,
        "first_step_seconds": first,
    }


def _seconds(step: Any, parts: list[Batch]) -> float:
    began = time.perf_counter()
    for part in parts:
        step(part)
    return (time.perf_counter() - began) / len(parts)


class Together:
    """`count` members with the prefix length and the optimizer of `ours`, in one program."""

    def __init__(self, ours: Ours, count: int):
        def stacked(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), tree)

        self.ours, self.hyper = ours, stacked(ours.hyper)
        self.state: TrainState = stacked(ours.state).replace(step=jnp.int32(0))
        lengths = [ours.session.config.prefix.length] * count
        self._step = make_step(ours.session.model, ours.method, lengths=lengths)

    def step(self, batch: Batch) -> list[float]:
        self.state, metrics = self._step(self.ours.session.base, self.hyper, self.state, batch)
        return jax.device_get(metrics["loss"]).tolist()
