"""Classification of the embedded set's texts: whether they say that a lighthouse is open to visitors."""

from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row, value_at
from prefix_jax.data.records import Record, pair
from prefix_jax.metrics.classification import CLASSIFICATION
from prefix_jax.tasks.task import Task

OPEN, CLOSED, UNKNOWN = LABELS = ("open", "closed", "unknown")


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one record per text; its label is what the facts of the text say of visitors."""
    found = []
    for where, row in table:
        facts = dict(fact.split(" : ", 1) for fact in value_at(row, "source", where=where, kind=str).split(" | "))
        label = UNKNOWN if "visitors" not in facts else CLOSED if facts["visitors"] == "never" else OPEN
        for text in value_at(row, "references", where=where, kind=list):
            found.append(pair(text, label, None, f"{split}-{len(found)}", 0, LABELS))
    return found


TASK = Task(
    name="lighthouse_visitors",
    data=DataSet(records=records, embedded=("prefix_jax.data", "lighthouse")),
    metrics=CLASSIFICATION,
    labels=LABELS,
)
