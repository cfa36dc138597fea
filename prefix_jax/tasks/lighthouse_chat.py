"""Conversations about the embedded set's lighthouses, written by `data/guide.py`."""

from typing import Any

from prefix_jax.data import guide
from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row, value_at
from prefix_jax.data.records import Record
from prefix_jax.tasks import chat
from prefix_jax.tasks.task import Task


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one conversation per lighthouse."""
    found = []
    for number, (where, row) in enumerate(table):
        facts = dict(fact.split(" : ", 1) for fact in value_at(row, "source", where=where, kind=str).split(" | "))
        found.append(chat.record(guide.conversation(facts), f"{split}-{number}"))
    return found


TASK = Task(
    name="lighthouse_chat",
    data=DataSet(records=records, prompt=chat.prompt, embedded=("prefix_jax.data", "lighthouse")),
    metrics=chat.METRICS,
    as_read=chat.as_read,
    chat=True,
)
