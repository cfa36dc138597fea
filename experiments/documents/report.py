"""The table and the plot of README.md, from `results.jsonl` alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefix_jax.disk import read_json_lines, write_text
from prefix_jax.distillation.fidelity import TEACHER, Fidelity
from prefix_jax.reporting.svg.markup import Markup
from prefix_jax.reporting.svg.plots import Series, line_chart
from prefix_jax.reporting.svg.standalone import standalone
from prefix_jax.reporting.tables import markdown_table, write_between_markers

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
STARTS = ("first", "chunks", "asked", "reread", "closed_form")
TITLES = {
    TEACHER: "the whole document",
    "bare": "no document",
    "first": "first tokens",
    "chunks": "chunks",
    "asked": "closed form, queries of questions",
    "reread": "closed form, queries of the document read again",
    "closed_form": "closed form, both",
    "train": "closed form, both, trained",
}
COLUMNS = ("prefix", "slots", "tokens a slot", "KL", "top-1 %", "log perplexity", "recovery", "exact match %")

Line = Mapping[str, Any]


def read() -> list[dict[str, Any]]:
    return read_json_lines(RESULTS) if RESULTS.is_file() else []


def add(line: Line) -> None:
    """Adds a line to the results, which are written whole."""
    lines = [*read(), line]
    write_text(RESULTS, "".join(json.dumps(one) + "\n" for one in lines))


def rows(lines: Sequence[Line]) -> list[list[Any]]:
    """Returns the rows of one document's table, the shortest prefixes first."""
    known = {(line["method"], line["length"]): line for line in lines}
    ends = {method: of(known[method, 0]) for method in (TEACHER, "bare")}
    order = list(TITLES)
    found = []
    for line in sorted(lines, key=lambda one: (one["length"], order.index(one["method"]))):
        own, length = of(line), line["length"]
        each = line["tokens"] / length if length else None
        recovery = own.recovery(ends["bare"], ends[TEACHER])
        numbers = [own.kl, 100 * own.agreement, own.loss, recovery, 100 * line["exact"]]
        found.append([TITLES[line["method"]], length or None, each, *numbers])
    return found


def of(line: Line) -> Fidelity:
    return Fidelity(*(line[name] for name in Fidelity._fields))


def chart(lines: Sequence[Line]) -> Markup:
    """Returns a plot of recovery against compression for one document."""
    known = {(line["method"], line["length"]): line for line in lines}
    ends = {method: of(known[method, 0]) for method in (TEACHER, "bare")}

    def series(method: str, kind: Any) -> Series:
        own = sorted((line for line in lines if line["method"] == method), key=lambda line: -line["length"])
        y = [of(line).recovery(ends["bare"], ends[TEACHER]) for line in own]
        return Series(TITLES[method], [line["tokens"] / line["length"] for line in own], y, kind)

    kinds = {"closed_form": "line", "reread": "points", "first": "faint"}
    drawn = [series(method, kind) for method, kind in kinds.items()]
    return line_chart(
        drawn, title="Recovery against compression", x_label="tokens of the document a slot", y_label="recovery",
        width=640, height=280, at_points=True,
    )  # fmt: skip


def write() -> None:
    """Writes the tables of README.md, and a plot for each document."""
    parts = []
    for seed in sorted({line["seed"] for line in read()}):
        lines = [line for line in read() if line["seed"] == seed]
        write_text(FOLDER / f"recovery-{seed}.svg", standalone(chart(lines)))
        commits = ", ".join(sorted({f"`{line['commit']}`" for line in lines}))
        one = lines[0]
        head = f"**{one['model']}, document {seed}: {one['tokens']} tokens, {one['facts']} facts (commit {commits})**"
        parts.append(f"{head}\n\n{markdown_table(rows(lines), COLUMNS)}")
    write_between_markers(FOLDER / "README.md", "\n\n".join(parts))
