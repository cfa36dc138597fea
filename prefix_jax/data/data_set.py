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
from prefix_jax.data.files import ROW_SUFFIXES, EmptyField, Row, read_rows
from prefix_jax.data.hub import HubSet
from prefix_jax.data.layout import SPLITS, Found, Search
from prefix_jax.data.reading import Notes, Reading
from prefix_jax.data.records import Record, normalised
from prefix_jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Columns:
    """Which columns of a row are read, and how.

    Attributes:
      source, target: the columns (for translation: the two languages).
      labels: the words of labels.
      source_template, target_template: templates over columns in place of one column; "": none (see `templates`).
      empty: what is done with a row that has an empty field: "refuse" or "skip".
      unicode: the normalisation form of all texts, such as NFC; "": as they are.
      validation_fraction: share of the training inputs that are the validation split; 0: the set's own split.
      validation_seed: draws them.
    """

    source: str = "source"
    target: str = "target"
    labels: str = ""
    source_template: str = ""
    target_template: str = ""
    empty: str = "refuse"
    unicode: str = ""
    validation_fraction: float = 0.0
    validation_seed: int = 0


DEFAULT_COLUMNS = Columns()
# The value of `data.path` of a run whose records a caller in Python held (see `in_memory`).
IN_MEMORY = "(in memory)"
# (row, columns) -> its source and the choices of its own: of a row that need not have an answer.
Prompt = Callable[[Row, Columns], tuple[str, tuple[str, ...]]]
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
      pieces: records -> those that are divided among splits.
      prompt: the source of a row without an answer, and its choices; None: the source column.
      templates: the sides, "source" and "target", for which a configuration may give a template over columns.
      embedded: the package and the folder in it that hold the set as SPLIT.jsonl; empty: it is not in a package.
    """

    records: Records
    folder: str = ""
    suffixes: tuple[str, ...] = ROW_SUFFIXES
    parse: Callable[[Path, Notes], list[Any]] = read_rows
    prefer: layout.Prefer = lambda files: files
    hub: HubSet | None = None
    from_hub: Records | None = None
    pieces: Callable[[list[Record]], list[Record]] = lambda records: records
    prompt: Prompt | None = None
    templates: tuple[str, ...] = ()
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
    for side, template in (("source", columns.source_template), ("target", columns.target_template)):
        if template and side not in data.templates:
            raise UserError(
                f'data.{side}_format has a template over columns ("{template}"), and task {task} makes its {side}s '
                f"itself; write {{{side}}} for its text"
            )
    if columns.validation_fraction and split != "test":
        check_split(split)
        return drawn(_read(data, task, "train", path, columns), split, columns)
    return _read(data, task, split, path, columns)


def _read(data: DataSet, task: str, split: str, path: str, columns: Columns) -> Reading:
    found = find(data, task, split, path)
    if isinstance(found, Found):
        return _read_files(data, found, split, columns)
    if data.embedded and not path:
        package, name = data.embedded
        with importlib.resources.as_file(importlib.resources.files(package) / name) as folder:
            own = Columns(unicode=columns.unicode)
            reading = _read_files(data, Found((folder / f"{split}.jsonl",)), split, own)
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
    records = made(data.records, items, split, columns, notes)
    if found.unnamed or (columns.validation_fraction and split == "train"):
        records = data.pieces(records)
    if found.unnamed:
        share = _divide(records, split, found.files, bool(columns.validation_fraction))
        return Reading(share, split, found.files, whole=len(records), notes=notes)
    return Reading(records, split, found.files, passed_over=found.passed_over, notes=notes)


def _from_hub(data: DataSet, task: str, split: str, columns: Columns, tried: str) -> Reading:
    assert data.hub is not None and data.from_hub is not None
    table = hub.rows(data.hub, task, split, columns, tried)
    # Users cannot fix the hub's rows, and some of XSUM and WMT are empty.
    full, notes = [row for row in table.rows if not _has_empty(row[1])], Notes()
    if len(full) < len(table.rows):
        notes.left_out["rows with an empty field"] = len(table.rows) - len(full)
    return Reading(made(data.from_hub, full, split, columns, notes), split, name=table.name, notes=notes)


def made(make: Records, items: list[Any], split: str, columns: Columns, notes: Notes) -> list[Record]:
    """Returns the records that `make` returns, without items that have an empty field if `columns` says so.

    Raises:
      UserError: as `make`, or every item has an empty field.
    """
    if columns.empty == "skip":
        full = [item for item in items if _is_full(make, item, split, columns)]
        if not full:
            raise UserError(f"every row of the {split} split has an empty field; correct the file or the columns")
        if len(full) < len(items):
            notes.left_out["rows with an empty field"] += len(items) - len(full)
        items = full
    return [normalised(record, columns.unicode) for record in make(items, split, columns, notes)]


def _is_full(make: Records, item: Any, split: str, columns: Columns) -> bool:
    try:
        make([item], split, columns, Notes())
    except EmptyField:
        return False
    return True


def drawn(reading: Reading, split: str, columns: Columns) -> Reading:
    """Returns the training or the validation part of training records: whole sources, ranked by a hash with the seed.

    Raises:
      UserError: there are fewer than two distinct sources.
    """
    sources = sorted({record.source or record.target for record in reading.records}, key=_rank(columns.validation_seed))
    if len(sources) < 2:
        raise UserError("data.validation_fraction needs two distinct training inputs or more; give more data")
    count = min(max(1, round(columns.validation_fraction * len(sources))), len(sources) - 1)
    own, inside = set(sources[:count]), split == "validation"
    records = [record for record in reading.records if ((record.source or record.target) in own) == inside]
    whole = len(reading.records)
    told = f"drawn from {whole:,} training records" if inside else f"without {whole - len(records):,} for validation"
    about = f"data.validation_fraction={columns.validation_fraction:g}, seed {columns.validation_seed}"
    return replace(reading, records=records, split=split, drawn=f"{told} ({about})")


def _rank(seed: int | None = None) -> Callable[[str], bytes]:
    salt = b"" if seed is None else f"{seed} ".encode()
    return lambda source: hashlib.sha256(salt + source.encode()).digest()


def _has_empty(columns: dict) -> bool:
    values = columns["translation"].values() if isinstance(columns.get("translation"), dict) else columns.values()
    return any(isinstance(value, str) and not value.strip() for value in values)


def _divide(records: list[Record], split: str, files: Sequence[Path], together: bool = False) -> list[Record]:
    """Returns a split's share of the records: whole sources, ranked by their hash.

    With `together`, training has the validation's share too, from which it is drawn.
    """
    sources = sorted({r.source or r.target for r in records}, key=_rank())
    share = max(1, len(sources) // 10) if len(sources) >= 3 else 0
    parts = {"validation": sources[:share], "test": sources[share : 2 * share], "train": sources[2 * share :]}
    if together:
        parts["train"] = parts["validation"] + parts["train"]
    wanted = set(parts[split])
    if not wanted:
        names = ", ".join(map(str, files))
        raise UserError(f"{names} has too few distinct sources to set some aside for {split}; give at least three.")
    return [record for record in records if (record.source or record.target) in wanted]
