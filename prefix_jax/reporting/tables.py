"""Aligned tables for the terminal and Markdown: scores of the bare and the tuned model, samples side by side."""

import math
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefix_jax.data.conversations import transcript
from prefix_jax.disk import write_text
from prefix_jax.tasks import TASKS

# Metrics of tasks and of training of which less is better; of all others more is.
_LOWER = frozenset(m.name for task in TASKS.values() for m in task.metrics if not m.higher_is_better) | {"loss"}
# Their largest values, where all tasks with a metric of the name agree.
_LARGEST = {
    name: values.pop()
    for name in {m.name for task in TASKS.values() for m in task.metrics}
    if len(values := {m.largest for task in TASKS.values() for m in task.metrics if m.name == name}) == 1
}
# Of each metric that is not a built-in task's: its decimals and direction, as `scores.json` holds them.
About = Mapping[str, Mapping[str, Any]]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def write_between_markers(readme: Path, text: str, name: str = "results") -> None:
    """Replaces the text between the markers `<!-- NAME -->` and `<!-- end of NAME -->`."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = readme.read_text(encoding="utf-8").partition(start)
    write_text(readme, f"{before}{start}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


def text_table(rows: Sequence[Sequence[object]], columns: Sequence[str], title: str = "") -> str:
    """Returns a table with aligned columns, right-aligned numbers and a rule under the header; no trailing newline.

    Args:
        rows: cells, each row as long as `columns`; floats get two decimals, `None` a dash.
        columns: the header.
        title: line above the table.
    """
    cells, columns = [[cell_text(cell) for cell in row] for row in rows], [_clean(name) for name in columns]
    widths = [max(text_width(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    right = _right_aligned(rows, len(columns))
    lines = [_clean(title)] if title else []
    lines.append("  ".join(_pad(name, width, to_right) for name, width, to_right in zip(columns, widths, right)))
    lines.append("  ".join("─" * width for width in widths))
    for row in cells:
        lines.append("  ".join(_pad(cell, width, to_right) for cell, width, to_right in zip(row, widths, right)))
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> str:
    """Returns the table in GitHub's Markdown; `|` in cells is escaped, line breaks become spaces."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

    right = _right_aligned(rows, len(columns))
    marks = "| " + " | ".join("---:" if to_right else "---" for to_right in right) + " |"
    return "\n".join(
        [line([_clean(name) for name in columns]), marks, *(line([cell_text(cell) for cell in row]) for row in rows)]
    )


def score_rows(
    tuned: Mapping[str, float | None], bare: Mapping[str, float] | None, about: About | None = None
) -> list[list[object]]:
    """Returns rows of metric, bare score, tuned score, signed difference; `None` where one is missing."""
    bare = bare or {}
    rows: list[list[object]] = []
    for name in [*tuned, *(name for name in bare if name not in tuned)]:
        before, after = bare.get(name), tuned.get(name)
        change = None if before is None or after is None else signed(after - before, decimals_of(name, about))
        rows.append([name, *(_score(name, value, about) for value in (before, after)), change])
    return rows


def score_table(
    tuned: Mapping[str, float | None],
    bare: Mapping[str, float] | None = None,
    title: str = "",
    markdown: bool = False,
    about: About | None = None,
) -> str:
    """Returns the small table `metric / bare model / with prefix / difference`; without `bare`, metric and score.

    Args:
        tuned: scores by metric, in the units of the scorers' output.
        bare: the same for the bare model.
    """
    if bare:
        columns, rows = ["metric", "bare model", "with prefix", "difference"], score_rows(tuned, bare, about)
    else:
        columns, rows = ["metric", "score"], [[name, _score(name, value, about)] for name, value in tuned.items()]
    return markdown_table(rows, columns) if markdown else text_table(rows, columns, title)


def entry_table(entry: Mapping[str, Any], title: str = "") -> str:
    """Returns the table of an entry of `scores.json`, with a line for each meaningless score that gives the reason, and
    one for each of sacrebleu's signatures, and one of forgetting.
    """
    reasons = entry.get("not_measured", {})
    absent = dict.fromkeys(name for name in reasons if name not in entry["tuned"])
    table = score_table({**entry["tuned"], **absent}, entry.get("bare"), title, about=entry.get("metrics"))
    signatures = [f"{name}: {text}" for name, text in entry.get("signatures", {}).items()]
    forgotten = entry.get("forgetting")
    last = [forgetting_line(forgotten)] if forgotten else []
    return "\n".join([table, *(f"no {name}: {reason}" for name, reason in reasons.items()), *signatures, *last])


def forgetting_of(scores: Mapping[str, Any], split: str = "") -> float | None:
    """Returns the change of the loss of plain text that `scores.json` holds, of a split first; None without one."""
    for entry in (scores.get(split), *scores.values()):
        found = entry.get("forgetting") if isinstance(entry, Mapping) else None
        change = found.get("change") if isinstance(found, Mapping) else None
        if isinstance(change, (int, float)):
            return float(change)
    return None


def forgetting_line(found: Mapping[str, Any]) -> str:
    """Returns a line of the losses of plain text."""
    bare, tuned = (f"{found[f'loss_{name}']:.3f}" for name in ("bare", "tuned"))
    told = f"forgetting: {signed(found['change'], 3)} nats per token ({bare} to {tuned})"
    return f"{told} on {cell_text(found['file'])}, {found['tokens']:,} tokens"


def samples_side_by_side(samples: Sequence[Mapping[str, object]], width: int = 100) -> str:
    """Returns each sample's input and first reference, then the bare and the tuned model's text in two columns.

    Args:
        samples: lines of `samples.jsonl`: `source`, `references`, `tuned`, `bare` (which may be missing or None).
        width: terminal width in columns.
    """
    return "\n\n".join(_sample_text(sample, max(width, 40)) for sample in samples)


def is_better(metric: str, difference: float, about: About | None = None) -> bool | None:
    """Returns whether a change of the metric is for the better, `None` where there is none to its decimals."""
    if math.isnan(difference) or round(difference, decimals_of(metric, about)) == 0:
        return None
    return (difference < 0) if is_lower_better(metric, about) else (difference > 0)


def is_lower_better(metric: str, about: About | None = None) -> bool:
    """Returns the direction of a metric, whose name may end in a part (TER_seen)."""
    row = (about or {}).get(metric)
    return not row.get("higher_is_better", True) if row else bool(_LOWER & {metric, metric.rpartition("_")[0]})


def largest_of(metric: str, about: About | None = None) -> float | None:
    """Returns the largest value of a metric, whose name may end in a part; None: there is none, or it is not known."""
    row = (about or {}).get(metric)
    return row.get("largest") if row else _LARGEST.get(metric, _LARGEST.get(metric.rpartition("_")[0]))


def decimals_of(metric: str, about: About | None = None) -> int:
    """Returns the decimals that tables print: two for the metrics of built-in tasks."""
    return int((about or {}).get(metric, {}).get("decimals", 2))


def metric_text(metric: str, value: float | None, about: About | None = None) -> str:
    """Returns a score as tables print it."""
    return "-" if value is None else f"{value:,.{decimals_of(metric, about)}f}"


def signed(difference: float, decimals: int = 2) -> str:
    """Returns `+1.23`, `-1.23` or `0.00`."""
    difference = 0.0 if round(difference, decimals) == 0 else difference
    return f"{difference:+,.{decimals}f}" if difference else f"{0:.{decimals}f}"


def cell_text(cell: object) -> str:
    """Returns a cell as printed, on one line and without control characters (which model outputs may contain)."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return _clean(str(cell))


def text_width(text: str) -> int:
    """Returns the display width of a text: two columns per wide East Asian character, none per combining mark."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) != 0 for character in text)


def _sample_text(sample: Mapping[str, object], width: int) -> str:
    references = sample.get("references") or []
    first = references[0] if isinstance(references, Sequence) and references else None
    lines = _source(sample.get("source"), width)
    if first is not None:
        lines += _labelled("reference", first, width)
    if sample.get("bare") is None:
        return "\n".join(lines + _labelled("prefix", sample.get("tuned"), width))
    half = (width - 3) // 2
    left = ["bare model", "─" * half, *_wrap(sample["bare"], half)]
    right = ["with prefix", "─" * half, *_wrap(sample.get("tuned"), half)]
    height = max(len(left), len(right))
    left, right = left + [""] * (height - len(left)), right + [""] * (height - len(right))
    return "\n".join(lines + [f"{_pad(a, half, False)} │ {b}".rstrip() for a, b in zip(left, right)])


def _source(source: object, width: int) -> list[str]:
    """The input; of a conversation its turns, a line each at least."""
    turns = transcript(str(source).strip())
    if not turns:
        return _labelled("input", source, width)
    return [line for role, text in turns for line in _labelled(_clean(role)[:9], text, width)]


def _labelled(label: str, text: object, width: int) -> list[str]:
    lines = _wrap(text, width - 11)
    return [f"{label if i == 0 else '':<9}  {line}" for i, line in enumerate(lines)]


def _wrap(text: object, width: int) -> list[str]:
    """Wraps by display width: `textwrap` counts a wide character as one, so wide text gets half the columns."""
    clean = _clean(str(text if text is not None else "")).strip() or "(empty)"
    doubled = text_width(clean) > len(clean)
    return textwrap.wrap(clean, width // 2 if doubled else width) or [""]


def _clean(text: str) -> str:
    return _CONTROL.sub("\ufffd", " ".join(text.split()))


def _pad(text: str, width: int, to_right: bool) -> str:
    space = " " * (width - text_width(text))
    return space + text if to_right else text + space


def _right_aligned(rows: Sequence[Sequence[object]], count: int) -> list[bool]:
    """Returns whether each column is right-aligned: it contains only numbers, signed differences included."""

    def number(cell: object) -> bool:
        return cell is None or isinstance(cell, (int, float)) or bool(re.fullmatch(r"[+-]?[\d,]+\.\d+", str(cell)))

    return [bool(rows) and all(number(row[i]) for row in rows) for i in range(count)]


def _score(name: str, value: float | None, about: About | None) -> float | str | None:
    """A number where a table prints it with two decimals, else its text."""
    if value is None:
        return None
    return float(value) if decimals_of(name, about) == 2 else metric_text(name, float(value), about)
