"""Any rows of a source and a target, in columns that the configuration names."""

from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row
from prefix_jax.data.records import Record
from prefix_jax.data.rows import of_columns
from prefix_jax.metrics.shared import ANY_TEXT
from prefix_jax.tasks.task import Task


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one record per row (see `data.rows.from_columns`)."""
    return of_columns(table, split, columns)


TASK = Task(name="text", data=DataSet(records=records, templates=("source", "target")), metrics=ANY_TEXT)
