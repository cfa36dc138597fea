"""`report.html` of a sweep: scores against the options that vary, a table, the runs, and the command."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import prefix_jax.workdir as files
from prefix_jax.disk import write_text
from prefix_jax.errors import UserError
from prefix_jax.reporting.figures import Figure, card, lines
from prefix_jax.reporting.sections.values import method_title, model_name
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.page import document, scrolling, section
from prefix_jax.reporting.svg.plots import Series, spans
from prefix_jax.reporting.sweep import (
    FAILED,
    Result,
    Sweep,
    best_of,
    option_text,
    option_word,
    read_sweep,
    score_cell,
    states_text,
    sweep_table,
)
from prefix_jax.reporting.tables import largest_of

LINES = ("line", "points", "faint")


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
    varied = _varied(found)
    seeds = " and seed" if found.options and any(len(result.states) > 1 for result in found.results) else ""
    lede = f"{rows} runs that differ in {varied}{seeds}; {done} of them done. "
    lede += f"Scores are those of the {found.record.get('split') or 'validation'} split."
    heading = title(found)
    opening = [
        tag("p", "prefix_jax: report of a sweep", class_="kicker"),
        tag("h1", heading),
        tag("p", lede, class_="lede"),
        tag("ul", tag("li", f"sweep {found.workdir.resolve().name}"), class_="meta"),
    ]
    sections = [("scores", "Scores", _charts(found)), ("table", "Table", _table(found))]
    sections += [("runs", "Runs", _runs(found)), ("reproduce", "How to reproduce", _command(found))]
    return document(
        heading, opening, [section(a, t, b) for a, t, b in sections if b is not None],
        [(a, t) for a, t, b in sections if b is not None],
    )  # fmt: skip


def title(found: Sweep) -> str:
    """Returns such as "Prefix tuning of flan-t5-small on lighthouse by prefix length", from its runs."""
    configs = [config for row in found.record.get("rows", []) if (config := _config(found.workdir / row["directory"]))]
    if not configs:
        return f"Sweep by {_varied(found)}"
    methods = _one_or_count([method_title(config) for config in configs], "methods")
    models = _one_or_count([model_name(_option_of(config, "model", "source")) for config in configs], "models")
    tasks = _one_or_count([_option_of(config, "data", "task") for config in configs], "tasks")
    return f"{methods} of {models} on {tasks} by {_varied(found)}"


def _one_or_count(names: Sequence[str], kind: str) -> str:
    different = list(dict.fromkeys(names))
    return different[0] if len(different) == 1 else f"{len(different)} {kind}"


def _option_of(config: Mapping[str, Any], section: str, name: str) -> str:
    found = config.get(section)
    return str(found.get(name, "unknown")) if isinstance(found, Mapping) else "unknown"


def _config(run: Path) -> Mapping[str, Any] | None:
    """The configuration of a run; None where it has not started or its file is damaged."""
    try:
        found = files.read_config(run).get("config")
    except UserError:
        return None
    return found if isinstance(found, Mapping) else None


def _varied(found: Sweep) -> str:
    return ", ".join(axis_name(o, found.options) for o in found.options) or "seed"


def axis_name(option: str, options: Sequence[str]) -> str:
    """Returns an option's name in titles and on axes: "prefix length", "learning rate"."""
    return "prefix length" if option == "prefix.length" else option_word(option, options).replace("_", " ")


def sweep_figures(found: Sweep) -> list[Figure]:
    """Returns the scores against the option that is a number: a figure for each metric, those in percent on one scale;
    where there are more lines than can be told apart, one for each line, all on one scale.
    """
    along = found.along
    if along is None or not found.metrics or len({r.options[along] for r in found.results}) < 2:
        return []
    others = [o for o in found.options if o != along]
    drawn: dict[str, list[Result]] = {}
    for result in sorted(found.results, key=lambda r: r.options[along]):
        label = ", ".join(f"{option_word(o, found.options)} {option_text(result.options[o])}" for o in others)
        drawn.setdefault(label, []).append(result)
    shown = list(drawn.items())
    if len(shown) > len(LINES):
        main = found.metrics[0]
        wanted = [(main, f"{main}: {label}", [(main, results)]) for label, results in shown]
    else:
        wanted = [(m, m, [(label or m, results) for label, results in shown]) for m in found.metrics]
    plots = [
        (metric, name, [_series(label, metric, results, along, kind) for (label, results), kind in zip(named, LINES)])
        for metric, name, named in wanted
    ]
    return [_figure(found, metric, name, series, _scale(found, metric, plots))
            for metric, name, series in plots if spans(series)]  # fmt: skip


def _charts(found: Sweep) -> Markup | None:
    figures = sweep_figures(found)
    return tag("div", [card(figure) for figure in figures], class_="charts two") if figures else None


def _series(name: str, metric: str, results: Sequence[Result], along: str, kind: Any) -> Series:
    x, y = [float(r.options[along]) for r in results], [r.mean(metric) for r in results]
    return Series(name, x, y, kind, [r.deviation(metric) for r in results])


def _scale(found: Sweep, metric: str, plots: Sequence[tuple[str, str, Sequence[Series]]]) -> list[float]:
    """The values that the vertical axis covers: those of all plots of the metric, and of others with its largest value,
    so that equal heights are equal scores.
    """
    largest = largest_of(metric, found.about)
    same = [s for m, _, s in plots if m == metric or (largest and largest_of(m, found.about) == largest)]
    ends = [end for series in same for end in spans(series, largest)]
    return [min(ends), max(ends)]


def _figure(found: Sweep, metric: str, name: str, series: Sequence[Series], covers: Sequence[float]) -> Figure:
    along, several = str(found.along), any(s > 0 for one in series for s in one.spread)
    return lines(
        re.sub(r"\W+", "_", name).strip("_"), name, series, log=False, at_points=True, covers=covers,
        told="Bars: one standard deviation over seeds." if several else "", largest=largest_of(metric, found.about),
        x_label=axis_name(along, found.options), y_label="" if metric == name else metric,
    )  # fmt: skip


def _table(found: Sweep) -> Markup:
    best = {m: best_of(found, m) for m in found.metrics}
    words = [option_word(o, found.options).replace("_", " ") for o in found.options]
    head = [tag("th", w, scope="col") for w in words] + [tag("th", "state", scope="col")]
    head += [tag("th", m, scope="col", class_="number") for m in found.metrics]
    rows = []
    for result in found.results:
        cells = [tag("td", option_text(result.options[o])) for o in found.options] + [tag("td", states_text(result))]
        for m in found.metrics:
            kind = "number better" if result is best[m] else "number"
            cells.append(tag("td", score_cell(result, m, found.about), class_=kind))
        rows.append(tag("tr", cells))
    caption = "The best of each column is marked. ± is one standard deviation over seeds."
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", rows))
    return tag("div", scrolling(table, "Scores"), class_="card")


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
