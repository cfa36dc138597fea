"""Records that a caller in Python holds: pairs, rows, columns, tables and data sets."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefix_jax.data.data_set import DEFAULT_COLUMNS, Columns, Records, made
from prefix_jax.data.files import Row
from prefix_jax.data.reading import Notes, Reading
from prefix_jax.data.records import Record
from prefix_jax.data.rows import Pair, of_columns
from prefix_jax.errors import UserError


@dataclass(frozen=True)
class InMemory:
    """Records of splits, one per text, in place of those that `data.task` and `data.path` name."""

    splits: Mapping[str, Sequence[Record]]
    notes: Mapping[str, Notes] = field(default_factory=dict)

    def read(self, split: str) -> Reading:
        """Returns the records of a split.

        Raises:
          UserError: none were given.
        """
        if split not in self.splits:
            raise UserError(f"no {split} records were given; the run has {', '.join(self.splits)} records in memory")
        notes = self.notes.get(split, Notes())
        return Reading(list(self.splits[split]), split, name="what was given in memory", notes=notes)

    def record(self) -> dict[str, Any]:
        """Returns what `config.json` says of the records."""
        return {"records": {split: _checksum(records) for split, records in self.splits.items()}}


def _checksum(records: Sequence[Record]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for record in records:
        own = [record.source, record.target, record.category, *filter(None, [record.conversation])]
        digest.update(json.dumps(own).encode() + b"\n")
    return {"count": len(records), "sha256": digest.hexdigest()}


# (rows, split, columns, notes) -> records.
RECORDS: Records = lambda rows, split, columns, notes: of_columns(rows, split, columns)


def records_of(
    data: Any, split: str, columns: Columns = DEFAULT_COLUMNS, name: str = "data", notes: Notes | None = None
) -> list[Record]:
    """Returns one record per text of what a caller holds.

    Args:
      data: pairs of a source and a target (or a list of targets), rows as mappings, a mapping of columns, a table
        with `to_dict` (pandas), or anything that yields pairs or rows, such as a generator or a `datasets.Dataset`.
      split: the split that the records become.
      columns: the columns of rows.
      name: name of the data, for messages.
      notes: collects what is left out.

    Raises:
      UserError: there are none, or one has no text.
    """
    return made(RECORDS, rows_of(data, columns, name), split, columns, notes or Notes())


def rows_of(data: Any, columns: Columns = DEFAULT_COLUMNS, name: str = "data") -> list[Row]:
    """Returns rows with their locations; see `records_of`."""
    if hasattr(data, "to_dict") and hasattr(data, "iloc"):
        data = data.to_dict("records")
    elif isinstance(data, Mapping):
        data = _transposed(data, columns, name)
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise UserError(f"{name} is {type(data).__name__}; give (source, target) pairs, rows or a table")
    rows = [_row(item, f"row {number} of {name}", columns) for number, item in enumerate(data, 1)]
    if not rows:
        raise UserError(f"{name} has no rows; give at least one")
    return rows


def _row(item: Any, where: str, columns: Columns) -> Row:
    if isinstance(item, Mapping):
        return where, {key: _plain(value) for key, value in item.items()}
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return where, Pair({columns.source: item[0], columns.target: _plain(item[1])})
    raise UserError(f"{where} is {type(item).__name__}, neither a (source, target) pair nor a row with columns")


def _plain(value: Any) -> Any:
    """Returns a list for what tables hold in place of one: a tuple or an array of texts."""
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _transposed(data: Mapping[str, Any], columns: Columns, name: str) -> list[dict[str, Any]]:
    """Returns the rows of a mapping of columns."""
    lists = {key: list(value) for key, value in data.items() if not isinstance(value, (str, bytes))}
    lengths = {key: len(value) for key, value in lists.items()}
    if not lists or len(set(lengths.values())) > 1:
        said = ", ".join(f"{key}: {count}" for key, count in lengths.items()) or "none"
        raise UserError(f"{name} is a mapping, whose values must be columns of one length ({said})")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
