"""Packing of records into steps and rows, pure and deterministic.

Every record has two sizes, bounded in each row by two capacities: columns and target tokens for a decoder-only model,
source and target for an encoder-decoder. A step takes `batch` records. Rows are filled one after another: the oldest
records that fit, then the pair of the next records in shuffled order that fills the row best. Skipped records come
first in the next row.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefix_jax.data import array_cache
from prefix_jax.dependencies import PackingPlan

# Version of cached plans: increment it whenever the same sizes, capacities and seed give another plan.
VERSION = 1
_LOOK_AHEAD = 48  # records beyond the oldest among which a row's last two are chosen
_ATTEMPTS = 4  # orders tried before an epoch falls back


@dataclass(frozen=True)
class Shape:
    """Static number of rows of a step and the two capacities of a row."""

    rows: int
    first: int
    second: int


@dataclass(frozen=True)
class EpochPlan:
    """Records in layout order: step k holds `records[starts[k] : starts[k + 1]]`, in rows `rows`."""

    records: np.ndarray  # int64 [N]
    rows: np.ndarray  # int32 [N], ascending within a step
    starts: np.ndarray  # int64 [steps + 1]


@dataclass(frozen=True)
class Plan:
    """Plan of every epoch, a pure function of (sizes, shape, batch, seed, epoch).

    An epoch has `steps` steps and contains every record once. A step contains `batch` records, the last one the
    remainder; a step that cannot fit `batch` records contains fewer, and later ones compensate. If rows are so short
    that this happens often, `steps` exceeds `ceil(N / batch)` and the records are spread evenly.
    """

    sizes: np.ndarray  # int64 [N, 2]
    shape: Shape
    batch: int
    steps: int
    seed: int
    shuffle: bool
    first: EpochPlan | None = None  # plan of epoch 0, computed to choose `steps`

    def epoch(self, number: int) -> EpochPlan:
        """Returns an epoch's plan; shuffled anew by (seed, number)."""
        if number == 0 and self.first is not None:
            return self.first
        for attempt in range(_ATTEMPTS):
            plan = self.attempt(number, attempt)
            if plan is not None:
                return plan
        # Epoch 0 fits by the choice of `steps`, so its groups fit in any order.
        return _shuffle_steps(self.epoch(0), np.random.default_rng([self.seed, number, _ATTEMPTS]))

    def attempt(self, number: int, attempt: int) -> EpochPlan | None:
        """Returns an epoch's plan for one shuffled order, None if the records do not fit into `steps` steps."""
        order = _order(len(self.sizes), self.seed, number, attempt, self.shuffle)
        return plan_epoch(self.sizes, self.shape, order, self.steps, self.batch)


def kept(folder: Path | None, depends: PackingPlan, make: Callable[[], Plan]) -> Plan:
    """Returns the plan of `make`, cached in `folder` under a hash of its inputs (None: no cache)."""

    def arrays() -> array_cache.Arrays:
        plan = make()
        return {"shape": np.asarray(dataclasses.astuple(plan.shape)), **vars(plan.epoch(0))}

    found = array_cache.kept(folder, depends, arrays)
    first = EpochPlan(**{name: found[name] for name in EpochPlan.__annotations__})
    shape, steps = Shape(*found["shape"].tolist()), len(first.starts) - 1
    return Plan(depends.sizes, shape, depends.batch, steps, depends.seed, depends.shuffle, first)


def make_plan(sizes: np.ndarray, shape: Shape, batch: int, seed: int, shuffle: bool = True) -> Plan:
    """Returns a plan with the fewest steps that fit epoch 0: `ceil(N / batch)` unless rows are too small."""
    steps, grown = math.ceil(len(sizes) / batch), 0
    while True:
        plan = Plan(sizes, shape, batch, steps, seed, shuffle)
        for attempt in range(_ATTEMPTS):
            if (first := plan.attempt(0, attempt)) is not None:
                return dataclasses.replace(plan, first=first)
            if not shuffle:
                break
        grown += 1
        steps += math.ceil(grown * steps / 200)


def _order(count: int, seed: int, epoch: int, attempt: int, shuffle: bool) -> np.ndarray:
    return np.random.default_rng([seed, epoch, attempt]).permutation(count) if shuffle else np.arange(count)


def _shuffle_steps(plan: EpochPlan, rng: np.random.Generator) -> EpochPlan:
    order = rng.permutation(len(plan.starts) - 1)
    parts = [slice(plan.starts[k], plan.starts[k + 1]) for k in order]
    lengths = np.diff(plan.starts)[order]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return EpochPlan(
        np.concatenate([plan.records[p] for p in parts]), np.concatenate([plan.rows[p] for p in parts]), starts
    )


def plan_epoch(sizes: np.ndarray, shape: Shape, order: np.ndarray, steps: int, batch: int) -> EpochPlan | None:
    """Returns a plan of exactly `steps` steps over the records of `order`, None if they do not fit.

    Args:
      sizes: int [N, 2], each record's two sizes, none above the shape's capacities.
      order: int [n], records in the order in which they should come.
    """
    queue = _Queue(sizes, order, shape)
    records: list[int] = []
    rows: list[int] = []
    starts = [0]
    left = len(order)
    exact = steps == math.ceil(left / batch)
    for step in range(steps):
        wanted = math.ceil(left / (steps - step))
        if exact and wanted <= batch:
            wanted = min(batch, left - (steps - step - 1))
        taken = 0
        for row in range(shape.rows):
            chosen = queue.fill_row(math.ceil((wanted - taken) / (shape.rows - row)))
            records += chosen
            rows += [row] * len(chosen)
            taken += len(chosen)
        left -= taken
        starts.append(len(records))
    if left:
        return None
    return EpochPlan(np.asarray(records, np.int64), np.asarray(rows, np.int32), np.asarray(starts, np.int64))


class _Queue:
    """Queue of unplaced records, oldest first, with bounded lookahead."""

    def __init__(self, sizes: np.ndarray, order: np.ndarray, shape: Shape):
        ordered = sizes[order].astype(np.int32)
        self.order = order.tolist()
        self.first, self.second = ordered[:, 0].tolist(), ordered[:, 1].tolist()
        self.sizes = ordered, (ordered / np.array([shape.first, shape.second])).sum(axis=1).astype(np.float32)
        self.capacity = shape.first, shape.second
        # Typical minimum size of one more record: kept free while a row's first records are chosen.
        self.spare = np.quantile(ordered, 0.35, axis=0).tolist() if len(order) else [0, 0]
        self.window: list[int] = []  # places in the order, ascending
        self.next = 0

    def fill_row(self, count: int) -> list[int]:
        """Removes and returns up to `count` records that fit into one row together."""
        new = min(count + _LOOK_AHEAD - len(self.window), len(self.order) - self.next)
        if new > 0:
            self.window.extend(range(self.next, self.next + new))
            self.next += new
        if count <= 0 or not self.window:
            return []
        chosen, first, second = self._oldest(count)
        if len(chosen) < count:
            taken = set(chosen)
            free = [place for place in self.window if place not in taken][: _LOOK_AHEAD + 2]
            chosen += self._fullest(count - len(chosen), free, first, second)
        for place in chosen:
            self.window.remove(place)
        return [self.order[place] for place in chosen]

    def _oldest(self, count: int) -> tuple[list[int], int, int]:
        """Returns all but the row's last two records (at least one), and the remaining room."""
        first, second = self.capacity
        spare_first, spare_second = self.spare
        chosen: list[int] = []
        goal = max(1, count - 2)
        for place in self.window:
            # Always take the oldest record, so that none waits forever.
            after = count - len(chosen) - 1 if chosen else 0
            a, b = self.first[place], self.second[place]
            if a <= first - after * spare_first and b <= second - after * spare_second:
                chosen.append(place)
                first, second = first - a, second - b
                if len(chosen) == goal:
                    break
        return chosen, first, second

    def _fullest(self, count: int, free: list[int], first: int, second: int) -> list[int]:
        """Returns the one or two records of `free` that fill a row best; empty if none fits."""
        sizes, share = self.sizes[0][free], self.sizes[1][free]
        a, b = sizes[:, 0], sizes[:, 1]
        if count > 1 and len(free) > 1:
            fits = (a[:, None] <= first - a) & (b[:, None] <= second - b)
            fits.flat[:: len(free) + 1] = False  # a record with itself
            best = int(((share[:, None] + share) * fits).argmax())
            if fits.flat[best]:
                return [free[best // len(free)], free[best % len(free)]]
        fits = (a <= first) & (b <= second)
        best = int((share * fits).argmax()) if free else 0
        return [free[best]] if free and fits[best] else []


def choose_shape(
    sizes: np.ndarray, batch: int, rows_multiple: int = 1, capacity: int = 0, multiple: int = 4, aim: int = 256
) -> Shape:
    """Returns the cheapest shape whose steps fit `batch` records each.

    Args:
      sizes: int [N, 2].
      batch: records per step.
      rows_multiple: divisor of the number of rows (parts of an accumulated step, processes).
      capacity: fixed capacity of the first size; 0: chosen near `aim`, so that rows are full.
      multiple: divisor of chosen capacities.
    """
    batch = min(batch, len(sizes))
    order = np.random.default_rng(0).permutation(len(sizes))
    sample, large = sizes[order[: max(2000, 40 * batch)]], sizes[order[: max(50_000, 40 * batch)]]
    largest, mean = sizes.max(axis=0), sizes.mean(axis=0)
    best, best_cost = None, math.inf
    for rows in _row_counts(batch, rows_multiple, mean[0], capacity, aim):
        for shape in _shapes(largest, mean, batch, rows, capacity, multiple):
            cost = rows * (shape.first + shape.second) * (1 + shape.first / (8 * aim))
            if cost >= best_cost:
                break
            if _whole(sample, shape, batch):
                best, best_cost = shape, cost
                break
    if best is not None:
        for shape in _shapes(largest, mean, batch, best.rows, capacity, multiple):
            if shape.first >= best.first and shape.second >= best.second:
                best = shape
                if _whole(large, shape, batch):
                    break
    else:
        # No number of rows fits a whole step (long records): use rows for the mean and steps of fewer records.
        rows = rows_multiple * math.ceil(batch * mean[0] / (rows_multiple * max(capacity or aim, largest[0])))
        best = Shape(rows, int(max(capacity, largest[0])), int(largest[1] + math.ceil(mean[1] * batch / rows)))
    return best


def _row_counts(batch: int, rows_multiple: int, mean: float, capacity: int, aim: int) -> list[int]:
    """Returns candidate numbers of rows near `batch * mean / length`, divisors of the batch first."""
    middle = min(batch, batch * mean / (capacity or aim))
    low, high = max(1, math.floor(middle * 0.6)), min(batch, math.ceil(middle * 2))
    counts = sorted({max(1, round(n / rows_multiple)) * rows_multiple for n in range(low, max(low, high) + 1)})
    if capacity:
        return [n for n in counts if n * capacity >= batch * mean]
    return sorted(counts, key=lambda n: (batch % n != 0, abs(math.log(n / middle))))[:4]


def _shapes(
    largest: np.ndarray, mean: np.ndarray, batch: int, rows: int, capacity: int, multiple: int
) -> Iterator[Shape]:
    """Yields increasing capacities for a number of rows, from 2 % above the mean."""
    last = None
    for slack in np.arange(1.02, 1.5, 0.02):
        share = np.maximum(largest, batch * mean * slack / rows)
        first, second = (math.ceil(s / multiple) * multiple for s in share)
        shape = Shape(rows, capacity or first, second)
        if shape != last:
            yield shape
        last = shape


def _whole(sample: np.ndarray, shape: Shape, batch: int) -> bool:
    """Returns whether a sample's steps fit `batch` records each, ignoring its end, where no choice is left."""
    steps = math.ceil(len(sample) / batch)
    plan = plan_epoch(sample, shape, np.arange(len(sample)), steps, batch)
    if plan is None:
        return False
    counts = np.diff(plan.starts)[: max(1, steps - max(2, steps // 8))]
    return bool((counts == min(batch, len(sample))).mean() >= 0.995)
