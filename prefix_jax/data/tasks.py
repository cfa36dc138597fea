"""The tasks, where their data is looked for, and the two views of a split: a record a text, or a record an input."""

import hashlib
import importlib.resources
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prefix_jax import disk
from prefix_jax.data import hub
from prefix_jax.data.files import ROW_SUFFIXES, Row, read_rows
from prefix_jax.data.readers import dart, e2e, rows, webnlg
from prefix_jax.data.records import Record, group
from prefix_jax.errors import UserError, did_you_mean

SPLITS = ("train", "validation", "test")
# What a split is called in the names of files.
_WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class Columns:
    """The columns of a row that are source and target (for translation: the two languages)."""

    source: str = "source"
    target: str = "target"


@dataclass(frozen=True)
class Task:
    """How a task's data is found and read.

    Attributes:
      folder: its name under $PREFIX_JAX_DATA ("": none).
      suffixes: of its files, the preferred first.
      read: (file, split, columns) -> one record a text, in the file's order.
      from_hub: (the hub's rows, split, columns) -> the same; None where the hub has no such set.
    """

    folder: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, str, Columns], list[Record]]
    from_hub: Callable[[list[Row], str, Columns], list[Record]] | None = None


def _summaries(source: str, target: str) -> Callable[[list[Row], str, Columns], list[Record]]:
    return lambda table, split, columns: rows.from_columns(table, split, source, target, one_line=True)


def _of_rows(parse: Callable[[list[Row], str, Columns], list[Record]]) -> Callable[[Path, str, Columns], list[Record]]:
    return lambda path, split, columns: parse(read_rows(path), split, columns)


def _text(table: list[Row], split: str, columns: Columns) -> list[Record]:
    return rows.from_columns(table, split, columns.source, columns.target)


def _translation(table: list[Row], split: str, columns: Columns) -> list[Record]:
    return rows.translation(table, split, columns.source, columns.target)


_xsum, _cnn_dm = _summaries("document", "summary"), _summaries("article", "highlights")

TASKS: dict[str, Task] = {
    "e2e": Task("e2e", (".txt", ".csv"), lambda p, s, c: e2e.read(p, s), lambda r, s, c: e2e.from_rows(r, s)),
    "webnlg": Task("webnlg2017", (".json",), lambda p, s, c: webnlg.read(p, s), lambda r, s, c: webnlg.from_rows(r, s)),
    "dart": Task("dart", (".json",), lambda p, s, c: dart.read(p, s), lambda r, s, c: dart.from_rows(r, s)),
    "xsum": Task("xsum", ROW_SUFFIXES, _of_rows(_xsum), _xsum),
    "cnn_dm": Task("cnn_dm", ROW_SUFFIXES, _of_rows(_cnn_dm), _cnn_dm),
    "translation": Task("translation", ROW_SUFFIXES, _of_rows(_translation), _translation),
    "table": Task("", ROW_SUFFIXES, _of_rows(_text)),
    "text": Task("", ROW_SUFFIXES, _of_rows(_text)),
}


def pairs(task: str, split: str, path: str = "", columns: Columns = Columns(), limit: int = 0) -> list[Record]:
    """Returns a split with one record a (source, target) text, in file order: for training and for the loss.

    Args:
      task: a name of `TASKS`.
      split: train, validation or test.
      path: file or directory; empty: $PREFIX_JAX_DATA/<folder>, then the hub. A directory is searched for the split by
        name. A file whose name names a split is that split; any other is divided: a tenth of its inputs for validation,
        a tenth for the test, chosen by a hash of their sources, the rest for training.
      columns: for the tasks "text" and "translation".
      limit: records used, from the start; 0: all.

    Raises:
      UserError: an unknown task or split, data that cannot be found, a row with an empty or missing field.
    """
    records = _read(_task(task), task, check_split(split), path, columns)
    return records[:limit] if limit else records


def inputs(task: str, split: str, path: str = "", columns: Columns = Columns(), limit: int = 0) -> list[Record]:
    """Returns a split with one record an input, with all its references: for decoding and scores. See `pairs`."""
    records = group(_read(_task(task), task, check_split(split), path, columns))
    return records[:limit] if limit else records


def load(task: str, split: str, path: str = "", columns: Columns = Columns(), limit: int = 0) -> list[Record]:
    """Returns `pairs` of the training split, `inputs` of the others."""
    view = pairs if split == "train" else inputs
    return view(task, split, path, columns, limit)


def _task(name: str) -> Task:
    if name not in TASKS:
        raise UserError(f'"{name}" is not a task (--config.data.task){did_you_mean(name, list(TASKS))}')
    return TASKS[name]


def check_split(name: str) -> str:
    """Returns the name of a split; UserError where it is none."""
    if name not in SPLITS:
        raise UserError(f'"{name}" is not a split{did_you_mean(name, SPLITS)}')
    return name


def _read(task: Task, name: str, split: str, path: str, columns: Columns) -> list[Record]:
    if path:
        return _from_path(task, name, split, Path(disk.expanded(path)), columns)
    if name == "table":
        with importlib.resources.as_file(importlib.resources.files("prefix_jax.data") / "table") as folder:
            return task.read(folder / f"{split}.jsonl", split, Columns())
    root = os.environ.get("PREFIX_JAX_DATA", "")
    tried = "PREFIX_JAX_DATA is not set" if not root else f"PREFIX_JAX_DATA ({root}) has no folder {task.folder}"
    if root and task.folder and (Path(root) / task.folder).is_dir():
        folder = Path(disk.expanded(root)) / task.folder
        found = _find(folder, split, task.suffixes)
        if found:
            return task.read(found, split, columns)
        tried = f"{folder} has no {split} file"
    if task.from_hub is None:
        raise UserError(f'Task "{name}" needs --config.data.path: a file or a directory with its rows.')
    languages = (columns.source, columns.target) if name == "translation" else None
    if languages and "en" not in languages:
        raise UserError(
            'Task "translation" needs its two languages, one of them "en": set --config.data.source_column and '
            "--config.data.target_column, for instance to en and de."
        )
    table = hub.rows(name, split, languages, tried)
    # Nobody here can mend the hub's rows, and some of XSUM and WMT are empty.
    return task.from_hub([row for row in table if not _has_empty(row[1])], split, columns)


def _has_empty(columns: dict) -> bool:
    values = columns["translation"].values() if isinstance(columns.get("translation"), dict) else columns.values()
    return any(isinstance(value, str) and not value.strip() for value in values)


def _from_path(task: Task, name: str, split: str, path: Path, columns: Columns) -> list[Record]:
    if path.is_dir():
        found = _find(path, split, task.suffixes)
        if not found:
            kinds = ", ".join(f"{word}{suffix}" for word in _WORDS[split][:1] for suffix in task.suffixes)
            raise UserError(
                f"{path} has no {split} file of task {name}; give a directory that holds {kinds} or the like."
            )
        return task.read(found, split, columns)
    if not path.is_file():
        raise UserError(f"{path} does not exist; set --config.data.path to a file or directory of task {name}.")
    named = [other for other in SPLITS if _names(path, other)]
    if named and split not in named:
        raise UserError(f"{path} holds the {named[0]} split, not {split}; give a directory with a file for each split.")
    records = task.read(path, split, columns)
    return records if named else _divide(records, split, path)


def _names(path: Path, split: str) -> bool:
    words = re.split(r"[^a-z]+", re.sub(r"(train|dev|test)set", r"\1", path.stem.lower()))
    return any(word in words for word in _WORDS[split])


def _find(folder: Path, split: str, suffixes: tuple[str, ...]) -> Path | None:
    """Returns the split's file in a folder: by preferred suffix, then with references, then by the shortest name."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and _names(path, split)]
    key = lambda path: (suffixes.index(path.suffix.lower()), "ref" not in path.stem, len(path.name), path.name)
    return min(files, key=key, default=None)


def _divide(records: list[Record], split: str, path: Path) -> list[Record]:
    """Returns a split's share of one file's records: whole sources, by the rank of their hash."""
    sources = sorted({r.source for r in records}, key=lambda source: hashlib.sha256(source.encode()).digest())
    share = max(1, len(sources) // 10) if len(sources) >= 3 else 0
    parts = {"validation": sources[:share], "test": sources[share : 2 * share], "train": sources[2 * share :]}
    wanted = set(parts[split])
    if not wanted:
        raise UserError(f"{path} has too few distinct sources to set some aside for {split}; give at least three.")
    return [record for record in records if record.source in wanted]
