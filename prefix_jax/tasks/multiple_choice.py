"""Multiple choice: a question, its choices, and which of them is the answer."""

from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row
from prefix_jax.data.records import Record, pair
from prefix_jax.data.rows import source_text
from prefix_jax.errors import UserError
from prefix_jax.metrics.classification import ACCURACY
from prefix_jax.tasks.task import Task


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one record per row, each an input of its own.

    `choices` is a list of texts, or ARC's {"text": [...], "label": [...]}. `answer` is a choice's text, its label
    (letters from A where there are none), or its place, from 0.
    """
    found = []
    for number, row in enumerate(table):
        texts, names = _choices(row)
        answer = texts[_answer(row, columns, texts, names)]
        question, choices = prompt(row, columns)
        found.append(pair(question, answer, None, f"{split}-{number}", 0, choices))
    return found


def prompt(row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
    """Returns the question of a row and its choices."""
    source = "question" if columns.source == "source" and "source" not in row[1] else columns.source
    return source_text(row, source, columns.source_template), tuple(_choices(row)[0])


def _choices(row: Row) -> tuple[list[str], list[str]]:
    """Returns a row's choices and their labels."""
    where, columns = row
    given, names = columns.get("choices"), None
    if isinstance(given, dict):
        given, names = given.get("text"), given.get("label")
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        raise UserError(f'{where} has no list of texts as its "choices"; correct the row.')
    texts = [text.strip() for text in given]
    if len(set(texts)) < max(len(texts), 2):
        raise UserError(f'{where} has "choices" that are equal, or fewer than two; correct the row.')
    if not isinstance(names, list) or len(names) != len(texts):
        names = [chr(ord("A") + i) for i in range(len(texts))]
    return texts, [str(name).strip() for name in names]


def _answer(row: Row, columns: Columns, texts: list[str], names: list[str]) -> int:
    """Returns the place of a row's answer among its choices."""
    where, values = row
    wanted = () if columns.target == "target" else (columns.target,)
    column = next((name for name in (*wanted, "answer", "answerKey", "label") if name in values), None)
    if column is None:
        raise UserError(f'{where} has no column "answer" (--config.data.target_column chooses it); correct the row.')
    value = values[column]
    if isinstance(value, str):
        text = value.strip()
        for known in (texts, names):
            if text in known:
                return known.index(text)
        value = int(text) if text.isascii() and text.isdigit() else None
    if isinstance(value, float) and value == value and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(texts):
        raise UserError(f'{where} has an "{column}" that is none of its {len(texts)} choices; correct the row.')
    return value


TASK = Task(
    name="multiple_choice",
    data=DataSet(folder="multiple_choice", records=records, prompt=prompt, templates=("source",)),
    metrics=(ACCURACY,),
)
