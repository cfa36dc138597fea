"""Chat: conversations, of which every assistant turn is trained on and the last one is generated for scores."""

from typing import Any

from prefix_jax.data import conversations
from prefix_jax.data.conversations import Conversation
from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row
from prefix_jax.data.records import Record
from prefix_jax.metrics.perplexity import PERPLEXITY
from prefix_jax.metrics.shared import ANY_TEXT
from prefix_jax.tasks.task import Task

# Bits per byte are of texts; a conversation's tokens include those that end turns.
METRICS = (*PERPLEXITY[:2], *ANY_TEXT)


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one record per conversation (see `data.conversations`), until its last assistant turn."""
    found = []
    for number, row in enumerate(table):
        whole = conversations.answered(row, columns.source, columns.target, columns.unicode)
        found.append(record(whole, f"{split}-{number}"))
    return found


def record(whole: Conversation, id: str) -> Record:
    """Returns the record of a conversation that ends with an assistant turn."""
    answer = conversations.spoken(whole.messages[-1]).strip()
    return Record(whole.until(-1).text(), answer, (answer,), None, f"{id}#0", conversation=whole.text())


def prompt(row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
    """Returns a row's conversation without an assistant turn at its end, and no choices."""
    found = conversations.of_row(row, columns.source, columns.target, columns.unicode)
    return found.without_answer().text(), ()


def as_read(text: str) -> str:
    """Returns a typed text as the conversation that it begins."""
    return conversations.parse(text).text()


TASK = Task(
    name="chat",
    data=DataSet(folder="chat", records=records, prompt=prompt),
    metrics=METRICS,
    as_read=as_read,
    chat=True,
)
