"""Results of a sweep: `table.md`, `report.html` and terminal lines, from `sweep.json` and its runs."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prefix_jax.workdir as files
from prefix_jax.disk import write_text
from prefix_jax.errors import UserError
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.page import document, section
from prefix_jax.reporting.svg.plots import Series, line_chart
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
LINES = ("line", "points", "faint")


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
    words = [_word(o, found.options) for o in found.options]
    rows = [
        [
            *(_option(result.options[o]) for o in found.options),
            _states(result),
            *(_cell(result, m, found.about) for m in found.metrics),
        ]
        for result in found.results
    ]
    columns = [*words, "state", *found.metrics]
    return markdown_table(rows, columns) if markdown else text_table(rows, columns)


def write_sweep(workdir: Path) -> None:
    """Writes `table.md` and `report.html` into a sweep's directory.

    Raises:
      UserError: it is not a sweep, or the files cannot be written.
    """
    found = read_sweep(workdir)
    write_text(workdir / files.TABLE, sweep_table(found, markdown=True) + "\n")
    files.write_report(workdir, page(found))


def page(found: Sweep) -> str:
    """Returns the report of a sweep as one HTML page."""
    states = [state.removesuffix(FAILED) for result in found.results for state in result.states]
    done = sum(state in ("scored", "diverged") for state in states)
    rows = len(found.record.get("rows", []))
    name = found.workdir.resolve().name
    varied = ", ".join(_word(o, found.options).replace("_", " ") for o in found.options) or "the seed"
    lede = f"{rows} runs that differ in {varied}; {done} of them done. "
    lede += f"Scores are those of the {found.record.get('split') or 'validation'} split."
    opening = [
        tag("p", "prefix_jax: report of a sweep", class_="kicker"),
        tag("h1", name),
        tag("p", lede, class_="lede"),
    ]
    sections = [("scores", "Scores", _charts(found)), ("table", "Table", _table(found))]
    sections += [("runs", "Runs", _runs(found)), ("reproduce", "How to reproduce", _command(found))]
    return document(
        f"Sweep {name}", opening, [section(a, t, b) for a, t, b in sections if b is not None],
        [(a, t) for a, t, b in sections if b is not None],
    )  # fmt: skip


def _charts(found: Sweep) -> Markup | None:
    along = found.along
    if along is None or not found.metrics or len({r.options[along] for r in found.results}) < 2:
        return None
    others = [o for o in found.options if o != along]
    lines: dict[str, list[Result]] = {}
    for result in sorted(found.results, key=lambda r: r.options[along]):
        label = ", ".join(f"{_word(o, found.options)} {_option(result.options[o])}" for o in others)
        lines.setdefault(label, []).append(result)
    shown = list(lines.items())
    if len(shown) > len(LINES):  # more lines than can be distinguished: one chart each
        main = found.metrics[0]
        figures = [
            _figure(f"{main}: {label}", [_series(main, main, results, along, "line")], along)
            for label, results in shown
        ]
    else:
        figures = [
            _figure(m, [_series(label or m, m, rs, along, kind) for (label, rs), kind in zip(shown, LINES)], along)
            for m in found.metrics
        ]
    return tag("div", [one for one in figures if one is not None], class_="charts two")


def _series(name: str, metric: str, results: Sequence[Result], along: str, kind: Any) -> Series:
    x, y = [float(r.options[along]) for r in results], [r.mean(metric) for r in results]
    return Series(name, x, y, kind, [r.deviation(metric) for r in results])


def _figure(metric: str, lines: Sequence[Series], along: str) -> Markup | None:
    if not any(math.isfinite(y) for line in lines for y in line.y):
        return None
    label = along.rpartition(".")[2].replace("_", " ")
    label = f"prefix {label}" if along == "prefix.length" else label
    chart = line_chart(lines, title=metric, x_label=label, log=False, at_points=True, width=440)
    several = any(s > 0 for line in lines for s in line.spread)
    told = tag("p", "Bars: one standard deviation over seeds.") if several else None
    return tag("figure", tag("figcaption", tag("h3", metric), told), chart, class_="card")


def _table(found: Sweep) -> Markup:
    best = {m: _best(found, m) for m in found.metrics}
    words = [_word(o, found.options).replace("_", " ") for o in found.options]
    head = [tag("th", w, scope="col") for w in words] + [tag("th", "state", scope="col")]
    head += [tag("th", m, scope="col", class_="number") for m in found.metrics]
    rows = []
    for result in found.results:
        cells = [tag("td", _option(result.options[o])) for o in found.options] + [tag("td", _states(result))]
        for m in found.metrics:
            kind = "number better" if result is best[m] else "number"
            cells.append(tag("td", _cell(result, m, found.about), class_=kind))
        rows.append(tag("tr", cells))
    caption = "The best of each column is marked. ± is one standard deviation over seeds."
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", rows))
    return tag("div", tag("div", table, class_="scroll"), class_="card")


def _runs(found: Sweep) -> Markup:
    def item(row: Mapping[str, Any]) -> Markup:
        report = found.workdir / row["directory"] / files.REPORT
        name = tag("a", row["name"], href=f"{row['directory']}/{files.REPORT}") if report.exists() else row["name"]
        against = "; ".join(finding["detail"] for finding in row.get("verdict", []))
        said = row.get("error") or (f"this run looks failed: {against}" if against else "")
        return tag("li", name, f": {row['status']}", f" ({said})" if said else None)

    items = tag("ul", [item(row) for row in found.record.get("rows", [])])
    return tag("div", items, class_="card")


def _command(found: Sweep) -> Markup:
    return tag("pre", tag("code", str(found.record.get("command", ""))), tabindex="0", aria_label="Command")


def _best(found: Sweep, metric: str) -> Result | None:
    known = [r for r in found.results if math.isfinite(r.mean(metric))]
    lower = metric == LOSS or is_lower_better(metric, found.about)
    return (min if lower else max)(known, key=lambda r: r.mean(metric), default=None)


def _cell(result: Result, metric: str, about: About) -> str:
    mean, deviation = result.mean(metric), result.deviation(metric)
    if math.isnan(mean):
        return "-"
    digits = 4 if metric == LOSS else decimals_of(metric, about)
    spread = f" ± {deviation:.{digits}f}" if len(result.values[metric]) > 1 else ""
    return f"{mean:,.{digits}f}{spread}"


def _states(result: Result) -> str:
    if len(result.states) == 1:
        return result.states[0]
    counts = {state: result.states.count(state) for state in dict.fromkeys(result.states)}
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _word(option: str, options: Sequence[str]) -> str:
    """Returns the last part of an option's name if it is unique in the sweep."""
    last = option.rpartition(".")[2]
    return last if [o.rpartition(".")[2] for o in options].count(last) == 1 else option


def _option(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else cell_text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
