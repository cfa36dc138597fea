"""Confusion matrices of a report: which label was given as which."""

from collections.abc import Mapping
from typing import Any

from prefix_jax.reporting.figures import Figure, card, heat
from prefix_jax.reporting.run import Run
from prefix_jax.reporting.sections.values import main_scores
from prefix_jax.reporting.svg.markup import Markup, tag

# A picture of more labels shows nothing; the numbers stay in scores.json.
_MOST = 40
_SHORT = 18


def confusion(run: Run) -> Markup | None:
    """The matrix of the tuned and of the bare model, on the split that opens the page."""
    figures = confusion_figures(run)
    return tag("div", [card(figure) for figure in figures], class_="charts two") if figures else None


def confusion_figures(run: Run) -> list[Figure]:
    """Returns a map for each model whose labels were counted."""
    split, scored = main_scores(run)
    details = scored.get("details")
    both = details.get("confusion") if isinstance(details, Mapping) else None
    if not isinstance(both, Mapping):
        return []
    names = {"bare": "Bare model", "tuned": "Tuned"}
    found = [_matrix(f"confusion_{name}", f"{title}, {split}", both.get(name)) for name, title in names.items()]
    return [figure for figure in found if figure is not None]


def _matrix(name: str, title: str, matrix: Any) -> Figure | None:
    """One matrix: rows are the right labels, in shares of their records."""
    if not isinstance(matrix, Mapping) or not _is_square(matrix.get("labels"), matrix.get("counts")):
        return None
    labels, counts = matrix["labels"], matrix["counts"]
    axes = {"row_label": "right label", "column_label": "given as"}
    if len(labels) > _MOST:
        told = f"A matrix of {len(labels)} labels is too large to draw."
        rows = [[a, b, count] for a, row in zip(labels, counts) for b, count in zip(labels, row)]
        return Figure(name, title, None, [*axes.values(), "records"], rows, told)
    shares = [[100 * value / max(sum(row), 1) for value in row] for row in counts]
    short = [text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…" for text in map(str, labels)]
    told = "Of the records of each label, in percent."
    return heat(name, title, shares, row_names=short, column_names=short, scale=(0.0, 100.0), told=told, **axes)


def _is_square(labels: Any, counts: Any) -> bool:
    if not isinstance(labels, list) or not labels or not isinstance(counts, list) or len(counts) != len(labels):
        return False
    numbers = lambda row: isinstance(row, list) and all(isinstance(value, int) and value >= 0 for value in row)
    return all(numbers(row) and len(row) == len(labels) for row in counts)
