"""Data as a caller in Python gives them: in memory, a file, or a task's name."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefix_jax import plugins, tasks
from prefix_jax.data.conversations import is_conversation
from prefix_jax.data.data_set import IN_MEMORY, Records, made
from prefix_jax.data.files import ROW_SUFFIXES, Row, read_rows
from prefix_jax.data.in_memory import RECORDS, InMemory, rows_of
from prefix_jax.data.reading import Notes
from prefix_jax.data.records import Record
from prefix_jax.data.text_files import kind
from prefix_jax.errors import UserError, did_you_mean

TRAIN, VALIDATION, TEST = tasks.SPLITS


@dataclass(frozen=True)
class Source:
    """Where the records of a run are: options of its configuration, and records in memory if there are any."""

    options: dict[str, Any] = field(default_factory=dict)
    held: InMemory | None = None

    @property
    def has_validation(self) -> bool:
        """Whether there are validation records, as there are in every task and beside or in every file."""
        return self.held is None or VALIDATION in self.held.splits


def source_of(data: Any, validation: Any, columns: tasks.Columns, task: str = "") -> Source:
    """Returns where the records of a run are.

    Args:
      data: a task's name, a path or a list of paths, which have all splits; a mapping of splits; or training records
        in memory.
      validation: validation records; None: those of `data`.
      columns: the columns of rows.
      task: the task asked for; with "chat", any rows are conversations.

    Raises:
      UserError: there is no such task or file, or the data hold no pairs.
    """
    where = {"data.source_column": columns.source, "data.target_column": columns.target}
    if _are_paths(data):
        data = ",".join(map(os.fspath, data))
    if isinstance(data, (str, os.PathLike)) and validation is None:
        return Source({**where, **named(data)})
    splits: dict[str, Any] = {**data} if _is_splits(data) else {TRAIN: data}  # type: ignore[dict-item]
    if validation is not None:
        splits = {**splits, VALIDATION: validation}
    if TRAIN not in splits:
        raise UserError(f"the data have the splits {', '.join(splits)} and no {TRAIN} split, which tuning needs")
    notes = {split: Notes() for split in splits}
    held = {split: split_records(given, split, columns, notes[split], task) for split, given in splits.items()}
    chat = any(record.conversation for records in held.values() for record in records)
    return Source(
        {**where, "data.task": tasks.CHAT if chat else tasks.ANY_ROWS, "data.path": IN_MEMORY}, InMemory(held, notes)
    )


def split_records(
    data: Any, split: str, columns: tasks.Columns, notes: Notes | None = None, task: str = ""
) -> list[Record]:
    """Returns a split's records, one per text: of a task or a file too. Rows of messages are conversations.

    A file is read whole, whatever its name says.

    Args:
      notes: collects what is left out.
      task: with "chat", any rows are conversations.
    """
    notes = notes or Notes()
    if not isinstance(data, (str, os.PathLike)):
        rows = rows_of(data, columns, f"the {split} data")
        return made(_reader(rows, columns, task), rows, split, columns, notes)
    found = named(data)
    if "data.path" not in found:
        return tasks.pairs(found["data.task"], split)
    path = Path(found["data.path"])
    if not path.is_file():
        return tasks.pairs(tasks.CHAT if task == tasks.CHAT else tasks.ANY_ROWS, split, str(path), columns)
    rows = read_rows(path, notes)
    return made(_reader(rows, columns, task), rows, split, columns, notes)


def _reader(rows: list[Row], columns: tasks.Columns, task: str) -> Records:
    """Returns what makes records of rows."""
    first = rows[0][1]
    pair = {columns.source, columns.target} <= set(first)
    chat = is_conversation({"messages": first.get(columns.source)}) or (is_conversation(first) and not pair)
    return tasks.find(tasks.CHAT).data.records if chat or task == tasks.CHAT else RECORDS


def plain_records(data: Any, task: str, columns: tasks.Columns) -> list[Record]:
    """Returns the records of a task of plain text: of a file, or of texts in memory.

    Raises:
      UserError: the file cannot be read, or what is given is neither.
    """
    found, notes = tasks.find(task).data, Notes()
    if isinstance(data, (str, os.PathLike)):
        return made(found.records, found.parse(Path(data).expanduser(), notes), TEST, columns, notes)
    texts = list(data)
    if other := next((one for one in texts if not isinstance(one, str)), None):
        raise UserError(f"a text is {type(other).__name__}; give texts, or the path of a file")
    items = [(f"text {number}", {columns.source: text}) for number, text in enumerate(texts, 1)]
    return made(found.records, items, TEST, dataclasses.replace(columns, source_template=""), notes)


def _are_paths(data: Any) -> bool:
    paths = isinstance(data, (list, tuple)) and all(isinstance(one, (str, os.PathLike)) for one in data)
    return paths and any(Path(one).expanduser().exists() for one in data)


def _is_splits(data: Any) -> bool:
    return isinstance(data, Mapping) and bool(data) and set(data) <= set(tasks.SPLITS)


def named(data: str | os.PathLike) -> dict[str, Any]:
    """Returns the options for a task's name or a path."""
    text = os.fspath(data)
    path = Path(text).expanduser()
    if isinstance(data, str) and not path.exists():
        name = tasks.current_name(text)
        if name in tasks.TASKS:
            return {"data.task": name}
        looks_like_path = os.sep in text or "*" in text or "," in text or kind(path) in ROW_SUFFIXES
        if plugins.is_path(text) and not looks_like_path:
            tasks.find(text, "the data")
            return {"data.task": text}
        if not looks_like_path:
            raise UserError(f'"{text}" is neither a file nor a task{did_you_mean(text, tuple(tasks.TASKS))}')
    return {"data.task": tasks.ANY_ROWS, "data.path": str(path)}
