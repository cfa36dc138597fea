"""Results of a sweep, from `sweep.json` and its runs, and their table."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prefix_jax.workdir as files
from prefix_jax.errors import UserError
from prefix_jax.reporting.tables import (
    About,
    cell_text,
    decimals_of,
    forgetting_of,
    is_lower_better,
    markdown_table,
    text_table,
)

SEED = "training.seed"
LOSS = "validation loss"
FORGETTING = "forgetting"
# Options on the horizontal axis of plots: the first one that varies is used.
ALONG = ("prefix.length", "optimizer.learning_rate", "optimizer.weight_decay")
# Suffix of the state of a row whose run looks failed.
FAILED = " (looks failed)"


@dataclass(frozen=True)
class Result:
    """Rows of a sweep that differ only in the seed: options, state, and each metric's values."""

    options: Mapping[str, Any]
    states: Sequence[str]
    values: Mapping[str, Sequence[float]]

    def mean(self, metric: str) -> float:
        found = self.values.get(metric, ())
        return statistics.fmean(found) if found else math.nan

    def deviation(self, metric: str) -> float:
        """Returns the sample standard deviation over seeds, 0 for a single seed."""
        found = self.values.get(metric, ())
        return statistics.stdev(found) if len(found) > 1 else 0.0


@dataclass(frozen=True)
class Sweep:
    """Results of a sweep, the options that vary (except the seed) and the metrics, the task's main one first.

    `about` has decimals and direction of metrics that are not a built-in task's.
    """

    workdir: Path
    record: Mapping[str, Any]
    results: Sequence[Result]
    options: Sequence[str]
    metrics: Sequence[str]
    about: About

    @property
    def along(self) -> str | None:
        """The numeric option on the horizontal axis of plots."""
        numeric = [o for o in self.options if all(_is_number(r.options.get(o)) for r in self.results)]
        return next((o for o in ALONG if o in numeric), numeric[0] if numeric else None)


def read_sweep(workdir: Path) -> Sweep:
    """Reads a sweep's directory.

    Raises:
      UserError: it is not a sweep.
    """
    record = files.read_sweep(workdir)
    if not record:
        raise UserError(f"{workdir} holds no sweep; give the --workdir of a sweep")
    rows = record.get("rows", [])
    options = [o for o in dict.fromkeys(o for row in rows for o in row["options"]) if o != SEED]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row["options"].get(o) for o in options]), []).append(row)
    results = [_result(workdir, options, same) for same in groups.values()]
    metrics = list(dict.fromkeys(m for result in results for m in result.values))
    about: dict[str, Any] = {FORGETTING: {"decimals": 3, "higher_is_better": False}}
    for row in rows:
        for entry in files.read_scores(workdir / row["directory"]).values():
            about |= entry.get("metrics", {})
    return Sweep(workdir, record, results, options, metrics, about)


def _result(workdir: Path, options: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Result:
    values: dict[str, list[float]] = {}
    for row in rows:
        for metric, value in row.get("scores", {}).items():
            if value is None:
                continue
            values.setdefault(metric, []).append(value)
        change = forgetting_of(files.read_scores(workdir / row["directory"]))
        if change is not None:
            values.setdefault(FORGETTING, []).append(change)
        loss = _lowest_loss(workdir / row["directory"])
        if loss is not None and row["status"] in ("trained", "scored"):
            values.setdefault(LOSS, []).append(loss)
    values = {m: values[m] for m in sorted(values, key=lambda m: (m == LOSS, m == FORGETTING))}
    states = [row["status"] + (FAILED if row.get("verdict") else "") for row in rows]
    return Result({o: rows[0]["options"].get(o) for o in options}, states, values)


def _lowest_loss(workdir: Path) -> float | None:
    losses = (line.get("validation_loss") for line in files.read_metrics(workdir))
    return min((loss for loss in losses if loss is not None), default=None)


def sweep_table(found: Sweep, markdown: bool = False) -> str:
    """Returns one line per setting, with mean and standard deviation if there are several seeds."""
    words = [option_word(o, found.options) for o in found.options]
    rows = [
        [
            *(option_text(result.options[o]) for o in found.options),
            states_text(result),
            *(score_cell(result, m, found.about) for m in found.metrics),
        ]
        for result in found.results
    ]
    columns = [*words, "state", *found.metrics]
    return markdown_table(rows, columns) if markdown else text_table(rows, columns)


def best_of(found: Sweep, metric: str) -> Result | None:
    known = [r for r in found.results if math.isfinite(r.mean(metric))]
    lower = metric == LOSS or is_lower_better(metric, found.about)
    return (min if lower else max)(known, key=lambda r: r.mean(metric), default=None)


def score_cell(result: Result, metric: str, about: About) -> str:
    mean, deviation = result.mean(metric), result.deviation(metric)
    if math.isnan(mean):
        return "-"
    digits = 4 if metric == LOSS else decimals_of(metric, about)
    spread = f" ± {deviation:.{digits}f}" if len(result.values[metric]) > 1 else ""
    return f"{mean:,.{digits}f}{spread}"


def states_text(result: Result) -> str:
    if len(result.states) == 1:
        return result.states[0]
    counts = {state: result.states.count(state) for state in dict.fromkeys(result.states)}
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def option_word(option: str, options: Sequence[str]) -> str:
    """Returns the last part of an option's name if it is unique in the sweep."""
    last = option.rpartition(".")[2]
    return last if [o.rpartition(".")[2] for o in options].count(last) == 1 else option


def option_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else cell_text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
