"""Data sets: the lookup of a split's files and the reading of its records, one per text."""

import hashlib
import importlib.resources
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefix_jax import disk
from prefix_jax.data import hub, layout
from prefix_jax.data.files import ROW_SUFFIXES, read_rows
from prefix_jax.data.hub import HubSet
from prefix_jax.data.layout import SPLITS, Found, Search
from prefix_jax.data.reading import Notes, Reading
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Columns:
    """Source and target columns of a row (for translation: the two languages), and the words of labels."""

    source: str = "source"
    target: str = "target"
    labels: str = ""


DEFAULT_COLUMNS = Columns()
# The value of `data.path` of a run whose records a caller in Python held (see `in_memory`).
IN_MEMORY = "(in memory)"
# (results of `parse` for every file, split, columns, notes) -> one record per text, in order.
Records = Callable[[list[Any], str, Columns, Notes], list[Record]]


@dataclass(frozen=True)
class DataSet:
    """Lookup and reading of a data set.

    Attributes:
      records: items of all files of a split -> records.
      folder: folder name under $PREFIX_JAX_DATA ("": none).
      suffixes: suffixes of its files.
      parse: file -> its items.
      prefer: choice among files that name a split, for sets published in several formats.
      hub: the set on the hub; None if it is not there.
      from_hub: rows of the hub -> records.
      embedded: the package and the folder in it that hold the set as SPLIT.jsonl; empty: it is not in a package.
    """

    records: Records
    folder: str = ""
    suffixes: tuple[str, ...] = ROW_SUFFIXES
    parse: Callable[[Path, Notes], list[Any]] = read_rows
    prefer: layout.Prefer = lambda files: files
    hub: HubSet | None = None
    from_hub: Records | None = None
    embedded: tuple[str, str] | None = None


def read(data: DataSet, task: str, split: str, path: str = "", columns: Columns = DEFAULT_COLUMNS) -> Reading:
    """Returns the records of a split, one per text, with their origin.

    Args:
      data: the data set.
      task: the name of its task, for messages.
      split: train, validation or test.
      path: a folder, a file, or a pattern such as `dir/train-*.parquet`; empty: $PREFIX_JAX_DATA/<folder>, then the
        hub. A folder is searched for the split by name; all parts of one set are read (see `layout`). A file named
        after a split is that split, and the others are searched for beside it; any other is divided: a tenth of its
        inputs for validation, a tenth for test, chosen by a hash of their sources, the rest for training.
      columns: of a user's table, or the languages of a translation.

    Raises:
      UserError: unknown split, missing data, an ambiguous choice of files, or a row with an empty or missing field.
    """
    found = find(data, task, split, path)
    if isinstance(found, Found):
        return _read_files(data, found, split, columns)
    if data.embedded and not path:
        package, name = data.embedded
        with importlib.resources.as_file(importlib.resources.files(package) / name) as folder:
            reading = _read_files(data, Found((folder / f"{split}.jsonl",)), split, Columns())
        return replace(reading, files=(), name="the embedded set")
    return _from_hub(data, task, split, columns, found)


def find(data: DataSet, task: str, split: str, path: str = "") -> Found | str:
    """Returns the files of a split; where there are none, what was tried before the hub.

    Raises:
      UserError: unknown split, or missing or ambiguous files of a set that is neither embedded nor on the hub.
    """
    search = Search(check_split(split), data.suffixes, data.prefer, task)
    if path == IN_MEMORY:
        raise UserError(f"the {split} records of this run were in memory; name their file with --config.data.path")
    if path:
        return layout.find(Path(disk.expanded(path)), search)
    if data.embedded:
        return ""
    root = Path(disk.expanded(os.environ.get("PREFIX_JAX_DATA", "")))
    tried = "PREFIX_JAX_DATA is not set"
    if os.environ.get("PREFIX_JAX_DATA"):
        tried = f"PREFIX_JAX_DATA ({root}) has no folder {data.folder}"
        if data.folder and (root / data.folder).is_dir():
            files = layout.in_folder(root / data.folder, search)
            if files:
                return files
            tried = f"{root / data.folder} has no {split} file"
    if data.hub is None:
        raise UserError(f'Task "{task}" needs --config.data.path: a file or a directory with its rows.')
    return tried


def check_split(name: str) -> str:
    """Returns the name of a split; UserError if it is unknown."""
    if name not in SPLITS:
        raise UserError(f'"{name}" is not a split{did_you_mean(name, SPLITS)}')
    return name


def _read_files(data: DataSet, found: Found, split: str, columns: Columns) -> Reading:
    notes = Notes()
    items = [item for path in found.files for item in data.parse(path, notes)]
    records = data.records(items, split, columns, notes)
    if found.unnamed:
        share = _divide(records, split, found.files)
        return Reading(share, split, found.files, whole=len(records), notes=notes)
    return Reading(records, split, found.files, passed_over=found.passed_over, notes=notes)


def _from_hub(data: DataSet, task: str, split: str, columns: Columns, tried: str) -> Reading:
    assert data.hub is not None and data.from_hub is not None
    table = hub.rows(data.hub, task, split, columns, tried)
    # Users cannot fix the hub's rows, and some of XSUM and WMT are empty.
    full, notes = [row for row in table.rows if not _has_empty(row[1])], Notes()
    if len(full) < len(table.rows):
        notes.left_out["rows with an empty field"] = len(table.rows) - len(full)
    return Reading(data.from_hub(full, split, columns, notes), split, name=table.name, notes=notes)


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
