"""SQuAD: an answer from a passage, with (v2) or without questions that have none."""

from pathlib import Path
from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import ROW_SUFFIXES, Row, read_json, read_rows, text_field, value_at
from prefix_jax.data.hub import HubSet
from prefix_jax.data.records import Record, pair
from prefix_jax.data.text_files import kind
from prefix_jax.errors import UserError
from prefix_jax.metrics.answers import NO_ANSWER, SQUAD, SQUAD_V2
from prefix_jax.tasks.task import Task


def parse(path: Path, notes: Any) -> list[Row]:
    """Returns the questions of a file: rows, or SQuAD's own JSON (articles, paragraphs, questions)."""
    found = read_json(path) if kind(path) == ".json" else None
    if not isinstance(found, dict) or "data" not in found:
        return read_rows(path, notes)
    rows: list[Row] = []
    for number, article in enumerate(value_at(found, "data", where=str(path), kind=list), 1):
        where = f"article {number} of {path}"
        for paragraph in value_at(article, "paragraphs", where=where, kind=list):
            for item in value_at(paragraph, "qas", where=where, kind=list):
                row = {
                    "context": value_at(paragraph, "context", where=where, kind=str),
                    "question": value_at(item, "question", where=where, kind=str),
                    "answers": value_at(item, "answers", where=where, kind=list),
                }
                rows.append((f'question "{item.get("id", len(rows) + 1)}" in {where}', row))
    return rows


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one record per distinct answer of each question, which is an input; the source is T5's form."""
    found = []
    for number, row in enumerate(table):
        source, _ = prompt(row, columns)
        for k, text in enumerate(dict.fromkeys(_answers(row)) or [NO_ANSWER]):
            found.append(pair(source, text, None, f"{split}-{number}", k))
    return found


def prompt(row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
    """Returns the question with its context."""
    question, context = (text_field(row, name).strip() for name in ("question", "context"))
    return f"question: {question} context: {context}", ()


def _answers(row: Row) -> list[str]:
    """Returns the texts of a row's answers, a list of {"text"} or, as on the hub, {"text": a list}."""
    given = row[1].get("answers")
    if isinstance(given, dict):
        given = [{"text": text} for text in value_at(given, "text", where=row[0], kind=list)]
    if not isinstance(given, list):
        raise UserError(f'{row[0]} has no list of "answers"; give a file of this task.')
    texts = [value_at(one, "text", where=row[0], kind=str).strip() for one in given]
    return [text for text in texts if text]


def _answered(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    for row in table:
        if not _answers(row):
            raise UserError(f"{row[0]} has no answer; --config.data.task=squad_v2 has questions without one.")
    return records(table, split, columns, notes)


def _task(name: str, hub: str, reader: Any, metrics: Any) -> Task:
    return Task(
        name=name,
        data=DataSet(
            folder=name,
            suffixes=tuple(dict.fromkeys((*ROW_SUFFIXES, ".json"))),
            parse=parse,
            records=reader,
            hub=HubSet(hub),
            from_hub=reader,
            prompt=prompt,
        ),
        metrics=metrics,
    )


TASKS = (
    _task("squad", "rajpurkar/squad", _answered, SQUAD),
    _task("squad_v2", "rajpurkar/squad_v2", records, SQUAD_V2),
)
