"""Generated parts of a study's README: a table for each scale and task, and figures."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import published, results
from experiments.results import Result
from experiments.study import Figure, Study
from prefix_jax.disk import write_text
from prefix_jax.reporting.svg.dots import Spread, spread_rows
from prefix_jax.reporting.svg.markup import Markup
from prefix_jax.reporting.svg.plots import Series, line_chart, spans
from prefix_jax.reporting.svg.standalone import standalone
from prefix_jax.reporting.tables import largest_of, markdown_table, write_between_markers
from prefix_jax.tasks import TASKS

KINDS = ("line", "points", "faint")


def write_readme(study: Study) -> None:
    """Writes tables and figures from `results.jsonl` between the markers of the study's README."""
    parts = []
    for same in results.grouped(results.read(study.results), lambda r: [r.scale, r.option("data.task")]):
        parts += [heading(same), table(study, same)]
        for figure in study.figures:
            if not values(same, figure.metric):
                continue
            name, told = f"{same[0].scale}-{figure.metric}.svg", f"{figure.metric} against {figure.along}"
            models = ", ".join(dict.fromkeys(result.option("model.source") for result in same))
            caption = f"{told}: {models} on {same[0].option('data.task')}"
            write_text(study.folder / name, standalone(chart(study, figure, same), caption))
            parts.append(f"![{told}]({name})")
    write_between_markers(study.folder / "README.md", "\n\n".join(parts) or "No runs yet.")


def heading(found: Sequence[Result]) -> str:
    """Returns a line on the settings common to all runs."""

    def told(values: Sequence[Any]) -> str:
        low, high = min(values), max(values)
        return f"{low:,}" if low == high else f"{low:,} to {high:,}"

    models = ", ".join(dict.fromkeys(result.option("model.source") for result in found))
    steps, batch = told([r.steps for r in found]), told([r.option("training.batch") for r in found])
    scored = [r for r in found if r.scores]
    records = told([r.scoring["records"] for r in scored]) if scored else "no"
    line = f"**{found[0].option('data.task')}, scale `{found[0].scale}`**: {models}; {steps} steps of {batch} records; "
    split = scored[0].scoring["split"] if scored else "test"
    spaced = ", evenly spaced" if scored and scored[0].scoring.get("spread") else ""
    strategy = found[0].option("decoding.strategy")
    how = f"beam {found[0].option('decoding.beams')}" if strategy == "beam" else strategy
    return line + f"{records} {split} records scored{spaced}, {how}."


def table(study: Study, found: Sequence[Result]) -> str:
    """Returns one row per setting, followed by the paper's row if available."""
    task = found[0].option("data.task")
    metrics = study.metrics or published.METRICS[task]
    rows: list[list[object]] = []
    labels: dict[str, Any] = {}
    for same in results.grouped(found, lambda r: [r.option("model.source"), study.labels(r)]):
        labels = study.labels(same[0])
        rows.append([*map(_label, labels.values()), same[0].option("model.source"), *_ours(same, task, metrics)])
        theirs = study.paper(same[0])
        if any(metric in theirs for metric in metrics):
            printed = [f"{theirs[m]:g}" if m in theirs else "" for m in metrics]
            rows.append([*map(_label, labels.values()), "the paper", "", *printed, "", "", ""])
    return markdown_table(rows, [*labels, "model", "runs", *metrics, "trained", "stored", "commit"])


def _ours(same: Sequence[Result], task: str, metrics: Sequence[str]) -> list[object]:
    diverged = sum(result.status == "diverged" for result in same)
    runs = f"{len(same)}, {diverged} diverged" if diverged else str(len(same))
    cells = [spread_text(task, metric, values(same, metric)) for metric in metrics]
    stored = f"{same[0].counts['stored']:,} ({100 * same[0].share:.3g} %)"
    commits = ", ".join(f"`{commit[:8]}`" for commit in dict.fromkeys(result.commit for result in same))
    return [runs, *cells, f"{same[0].counts['trained']:,}", stored, commits]


def values(same: Sequence[Result], metric: str) -> list[float]:
    """Returns a metric's values over runs."""
    return [result.scores[metric] for result in same if metric in result.scores]


def spread_text(task: str, metric: str, found: Sequence[float]) -> str:
    """Returns mean and sample deviation, with one decimal less than the scorers print."""
    if not found:
        return "-"
    decimals = TASKS[task].decimals
    digits = decimals[metric if metric in decimals else metric.rpartition("_")[0]] - 1
    mean = f"{statistics.fmean(found):.{digits}f}"
    return f"{mean} ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else mean


def chart(study: Study, figure: Figure, found: Sequence[Result]) -> Markup:
    """Returns a figure as an SVG: lines along a number, or one row of dots per name.

    Lines of metrics with the same largest value have one scale in all figures of the study.
    """
    lines = _points(study, figure, found)
    title = f"{figure.metric} against {figure.along}"
    if any(isinstance(x, str) for points in lines.values() for x, _, _ in points):
        rows = [Spread(*point) for points in lines.values() for point in points]
        return spread_rows(rows, title=title, x_label=figure.metric, largest=largest_of(figure.metric))
    largest = largest_of(figure.metric)
    beside = [other for other in study.figures if largest is not None and largest_of(other.metric) == largest]
    covers = [end for other in beside for end in spans(_series(_points(study, other, found)), largest)]
    return line_chart(
        _series(lines), title=title, x_label=figure.along, y_label=figure.metric, log=False, at_points=True, width=440,
        largest=largest, covers=covers,
    )  # fmt: skip


def _series(lines: Mapping[str, Sequence[tuple[Any, float, float]]]) -> list[Series]:
    series = []
    for (name, points), kind in zip(lines.items(), KINDS, strict=False):
        x, y, deviations = zip(*sorted(points), strict=True)
        series.append(Series(name, x, y, kind, deviations))
    return series


def _points(study: Study, figure: Figure, found: Sequence[Result]) -> dict[str, list[tuple[Any, float, float]]]:
    """Returns each line's settings with mean and deviation, if there is a score."""
    lines: dict[str, list[tuple[Any, float, float]]] = {}
    for same in results.grouped(found, study.labels):
        labels, scores = study.labels(same[0]), values(same, figure.metric)
        if scores:
            deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
            line = str(labels[figure.lines]) if figure.lines else figure.metric
            lines.setdefault(line, []).append((labels[figure.along], statistics.fmean(scores), deviation))
    return lines


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
