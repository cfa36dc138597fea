"""Confusion matrices of a report: which label was given as which."""

from collections.abc import Mapping
from typing import Any

from prefix_jax.reporting.run import Run
from prefix_jax.reporting.sections.values import main_scores
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.plots import heat_map

# A picture of more labels shows nothing; the numbers stay in scores.json.
_MOST = 40
_SHORT = 18


def confusion(run: Run) -> Markup | None:
    """The matrix of the tuned and of the bare model, on the split that opens the page."""
    split, scored = main_scores(run)
    details = scored.get("details")
    both = details.get("confusion") if isinstance(details, Mapping) else None
    if not isinstance(both, Mapping):
        return None
    names = {"bare": "Bare model", "tuned": "Tuned"}
    cards = [card for name, title in names.items() if (card := _card(title, split, both.get(name))) is not None]
    return tag("div", cards, class_="charts two") if cards else None


def _card(title: str, split: str, matrix: Any) -> Markup | None:
    """One matrix: rows are the right labels, in shares of their records."""
    if not isinstance(matrix, Mapping) or not _is_square(matrix.get("labels"), matrix.get("counts")):
        return None
    labels, counts = matrix["labels"], matrix["counts"]
    if len(labels) > _MOST:
        told = f"{title}: a matrix of {len(labels)} labels is too large to draw; its numbers are in the scores."
        return tag("figure", tag("p", told, class_="empty"), class_="card")
    shares = [[100 * value / max(sum(row), 1) for value in row] for row in counts]
    short = [text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…" for text in map(str, labels)]
    picture = heat_map(
        shares, title=f"Confusion, {title.lower()}, {split}: % of each label's records", row_label="right label",
        column_label="given as", row_names=short, column_names=short,
    )  # fmt: skip
    told = tag("p", "Of the records of each label, in percent.")
    return tag("figure", tag("figcaption", tag("h3", title), told), picture, class_="card")


def _is_square(labels: Any, counts: Any) -> bool:
    if not isinstance(labels, list) or not labels or not isinstance(counts, list) or len(counts) != len(labels):
        return False
    numbers = lambda row: isinstance(row, list) and all(isinstance(value, int) and value >= 0 for value in row)
    return all(numbers(row) and len(row) == len(labels) for row in counts)
