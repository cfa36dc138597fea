"""Classification: a text and its label, which may be text, a number or a boolean."""

from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row
from prefix_jax.data.records import Record, pair
from prefix_jax.data.rows import source_text
from prefix_jax.metrics.classification import CLASSIFICATION
from prefix_jax.tasks.labels import label, parse
from prefix_jax.tasks.task import Task


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one record per row, each an input of its own: a text that occurs twice counts twice."""
    words, found = parse(columns.labels), []
    for number, row in enumerate(table):
        target = _column(row, columns.target, "target", "label")
        text, _ = prompt(row, columns)
        found.append(pair(text, label(row, target, words), None, f"{split}-{number}", 0))
    return found


def prompt(row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
    """Returns the text of a row, whose choices are those of all rows."""
    return source_text(row, _column(row, columns.source, "source", "text"), columns.source_template), ()


def _column(row: Row, chosen: str, default: str, own: str) -> str:
    """Returns the column of a row: the one chosen, or this task's where the option is at its default."""
    return own if chosen == default and chosen not in row[1] else chosen


TASK = Task(
    name="classification",
    data=DataSet(folder="classification", records=records, prompt=prompt, templates=("source",)),
    metrics=CLASSIFICATION,
    labels=(),
)
