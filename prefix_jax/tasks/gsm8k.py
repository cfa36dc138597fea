"""GSM8K: school mathematics; a solution ends in `#### ` and its number.

The hub has no validation split: the last 500 training records are that, and the rest is the training split.
"""

from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row
from prefix_jax.data.hub import HubSet
from prefix_jax.data.records import Record
from prefix_jax.data.rows import from_columns, of_column
from prefix_jax.metrics.answers import FINAL_NUMBERS
from prefix_jax.tasks.task import Task


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one record per row: the question, and the solution with its number."""
    return from_columns(table, split, "question", "answer")


_HUB = HubSet("openai/gsm8k", "main", validation="train[-500:]", train="train[:-500]")
TASK = Task(
    name="gsm8k",
    data=DataSet(folder="gsm8k", records=records, hub=_HUB, from_hub=records, prompt=of_column("question")),
    metrics=FINAL_NUMBERS,
)
