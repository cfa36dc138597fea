"""Tasks, the lookup of their data, and two views of a split: one record per text, or one per input."""

import hashlib
import importlib.resources
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefix_jax import disk
from prefix_jax.data import hub, layout
from prefix_jax.data.files import ROW_SUFFIXES, Row, read_rows
from prefix_jax.data.layout import SPLITS, Found, Search
from prefix_jax.data.readers import dart, e2e, rows, webnlg
from prefix_jax.data.reading import Notes, Reading
from prefix_jax.data.records import Record, group
from prefix_jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Columns:
    """Source and target columns of a row (for translation: the two languages)."""

    source: str = "source"
    target: str = "target"


# (results of `parse` for every file, split, columns, notes) -> one record per text, in order.
Records = Callable[[list[Any], str, Columns, Notes], list[Record]]


@dataclass(frozen=True)
class Task:
    """Lookup and reading of a task's data.

    Attributes:
      folder: folder name under $PREFIX_JAX_DATA ("": none).
      suffixes: suffixes of its files.
      parse: file -> its items.
      records: items of all files of a split -> records.
      from_hub: rows of the hub -> records; None if the hub does not have the set.
      prefer: choice among files that name a split, for sets published in several formats.
    """

    folder: str
    suffixes: tuple[str, ...]
    parse: Callable[[Path, Notes], list[Any]]
    records: Records
    from_hub: Records | None = None
    prefer: layout.Prefer = lambda files: files


def _summaries(source: str, target: str) -> Records:
    return lambda table, split, columns, notes: rows.from_columns(table, split, source, target, one_line=True)


def _text(table: list[Row], split: str, columns: Columns, notes: Notes) -> list[Record]:
    return rows.from_columns(table, split, columns.source, columns.target)


def _translation(table: list[Row], split: str, columns: Columns, notes: Notes) -> list[Record]:
    return rows.translation(table, split, columns.source, columns.target)


def _e2e_rows(table: list[Row], split: str, columns: Columns, notes: Notes) -> list[Record]:
    return e2e.from_rows(table, split)


_xsum, _cnn_dm = _summaries("document", "summary"), _summaries("article", "highlights")

TASKS: dict[str, Task] = {
    "e2e": Task(
        "e2e", (".txt", ".csv"), e2e.parse, lambda items, s, c, n: e2e.records(items, s), _e2e_rows, e2e.preferred
    ),
    "webnlg": Task(
        "webnlg2017", (".json",), lambda path, n: webnlg.parse(path),
        lambda items, s, c, n: webnlg.records(items, s, n), lambda table, s, c, n: webnlg.from_rows(table, s, n),
    ),
    "dart": Task(
        "dart", (".json",), lambda path, n: dart.parse(path),
        lambda items, s, c, n: dart.records(items, s, n), lambda table, s, c, n: dart.from_rows(table, s, n),
    ),
    "xsum": Task("xsum", ROW_SUFFIXES, read_rows, _xsum, _xsum),
    "cnn_dm": Task("cnn_dm", ROW_SUFFIXES, read_rows, _cnn_dm, _cnn_dm),
    "translation": Task("translation", ROW_SUFFIXES, read_rows, _translation, _translation),
    "table": Task("", ROW_SUFFIXES, read_rows, _text),
    "text": Task("", ROW_SUFFIXES, read_rows, _text),
}  # fmt: skip


def pairs(task: str, split: str, path: str = "", columns: Columns = Columns(), limit: int = 0) -> list[Record]:
    """Returns a split with one record per (source, target) text, in file order, for training and the loss.

    Args:
      task: a key of `TASKS`.
      split: train, validation or test.
      path: location of the files (see `read`).
      columns: columns of the tasks "text" and "translation".
      limit: number of records used, from the start; 0: all.

    Raises:
      UserError: unknown task or split, missing data, or a row with an empty or missing field.
    """
    records = read(task, split, path, columns).records
    return records[:limit] if limit else records


def inputs(task: str, split: str, path: str = "", columns: Columns = Columns(), limit: int = 0) -> list[Record]:
    """Returns a split with one record per input and all its references, for decoding and scores. See `pairs`."""
    records = group(read(task, split, path, columns).records)
    return records[:limit] if limit else records


def load(task: str, split: str, path: str = "", columns: Columns = Columns(), limit: int = 0) -> list[Record]:
    """Returns `pairs` for the training split, `inputs` for the others."""
    view = pairs if split == "train" else inputs
    return view(task, split, path, columns, limit)


def read(task: str, split: str, path: str = "", columns: Columns = Columns()) -> Reading:
    """Returns the records of a split, one per text, with their origin.

    Args:
      task: a name of `TASKS`.
      split: train, validation or test.
      path: a folder, a file, or a pattern such as `dir/train-*.parquet`; empty: $PREFIX_JAX_DATA/<folder>, then the
        hub. A folder is searched for the split by name; all parts of one set are read (see `layout`). A file named
        after a split is that split, and the others are searched for beside it; any other is divided: a tenth of its
        inputs for validation, a tenth for test, chosen by a hash of their sources, the rest for training.
      columns: for the tasks "text" and "translation".

    Raises:
      UserError: as for `pairs`, or the choice of files is ambiguous.
    """
    found = _task(task)
    search = Search(check_split(split), found.suffixes, found.prefer, task)
    if path:
        return _read_files(found, layout.find(Path(disk.expanded(path)), search), split, columns)
    if task == "table":
        with importlib.resources.as_file(importlib.resources.files("prefix_jax.data") / "table") as folder:
            reading = _read_files(found, Found((folder / f"{split}.jsonl",)), split, Columns())
        return replace(reading, files=(), name="the embedded set")
    root = Path(disk.expanded(os.environ.get("PREFIX_JAX_DATA", "")))
    tried = "PREFIX_JAX_DATA is not set"
    if os.environ.get("PREFIX_JAX_DATA"):
        tried = f"PREFIX_JAX_DATA ({root}) has no folder {found.folder}"
        if found.folder and (root / found.folder).is_dir():
            files = layout.in_folder(root / found.folder, search)
            if files:
                return _read_files(found, files, split, columns)
            tried = f"{root / found.folder} has no {split} file"
    return _from_hub(found, task, split, columns, tried)


def _task(name: str) -> Task:
    if name not in TASKS:
        raise UserError(f'"{name}" is not a task (--config.data.task){did_you_mean(name, list(TASKS))}')
    return TASKS[name]


def check_split(name: str) -> str:
    """Returns the name of a split; UserError if it is unknown."""
    if name not in SPLITS:
        raise UserError(f'"{name}" is not a split{did_you_mean(name, SPLITS)}')
    return name


def _read_files(task: Task, found: Found, split: str, columns: Columns) -> Reading:
    notes = Notes()
    items = [item for path in found.files for item in task.parse(path, notes)]
    records = task.records(items, split, columns, notes)
    if found.unnamed:
        share = _divide(records, split, found.files)
        return Reading(share, split, found.files, whole=len(records), notes=notes)
    return Reading(records, split, found.files, passed_over=found.passed_over, notes=notes)


def _from_hub(task: Task, name: str, split: str, columns: Columns, tried: str) -> Reading:
    if task.from_hub is None:
        raise UserError(f'Task "{name}" needs --config.data.path: a file or a directory with its rows.')
    languages = (columns.source, columns.target) if name == "translation" else None
    if languages and "en" not in languages:
        raise UserError(
            'Task "translation" needs its two languages, one of them "en": set --config.data.source_column and '
            "--config.data.target_column, for instance to en and de."
        )
    table = hub.rows(name, split, languages, tried)
    # Users cannot fix the hub's rows, and some of XSUM and WMT are empty.
    full, notes = [row for row in table.rows if not _has_empty(row[1])], Notes()
    if len(full) < len(table.rows):
        notes.left_out["rows with an empty field"] = len(table.rows) - len(full)
    return Reading(task.from_hub(full, split, columns, notes), split, name=table.name, notes=notes)


def _has_empty(columns: dict) -> bool:
    values = columns["translation"].values() if isinstance(columns.get("translation"), dict) else columns.values()
    return any(isinstance(value, str) and not value.strip() for value in values)


def _divide(records: list[Record], split: str, files: Sequence[Path]) -> list[Record]:
    """Returns a split's share of the records: whole sources, ranked by their hash."""
    sources = sorted({r.source for r in records}, key=lambda source: hashlib.sha256(source.encode()).digest())
    share = max(1, len(sources) // 10) if len(sources) >= 3 else 0
    parts = {"validation": sources[:share], "test": sources[share : 2 * share], "train": sources[2 * share :]}
    wanted = set(parts[split])
    if not wanted:
        names = ", ".join(map(str, files))
        raise UserError(f"{names} has too few distinct sources to set some aside for {split}; give at least three.")
    return [record for record in records if record.source in wanted]
