"""Readers of CSV, TSV, JSON, JSONL, Parquet and Arrow files; errors name the problem and the line."""

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefix_jax.data import json_files
from prefix_jax.data.json_files import Row, read_json
from prefix_jax.data.reading import Notes
from prefix_jax.data.text_files import kind, read_bytes, read_text
from prefix_jax.disk import lines
from prefix_jax.errors import UserError, did_you_mean, first_line

__all__ = [
    "ABSENT",
    "ROW_SUFFIXES",
    "EmptyField",
    "Row",
    "field_of",
    "read_json",
    "read_rows",
    "read_text",
    "text_field",
    "value_at",
]

ROW_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")

_MARKS = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
# A quoted cell: enclosed in quotation marks, with inner marks doubled.
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


ABSENT = object()


class EmptyField(UserError):
    """A field without a value, whose row `data.empty` may leave out."""


def read_rows(path: Path, notes: Notes | None = None) -> list[Row]:
    """Returns the rows of a table with their locations; the suffix, ignoring `.gz` and `.zst`, determines the format.

    Args:
      path: the file.
      notes: collects warnings.

    Raises:
      UserError: the file cannot be read, or has no rows.
    """
    readers = {
        ".tsv": _tsv,
        ".jsonl": json_files.rows,
        ".json": json_files.rows,
        ".parquet": _parquet,
        ".arrow": _arrow,
    }
    suffix = kind(path)
    if suffix == ".csv":
        rows = list(_csv(path, notes or Notes()))
    elif suffix in readers:
        rows = list(readers[suffix](path))
    else:
        raise UserError(f"{path} is not a supported table; give a file ending in {', '.join(ROW_SUFFIXES)}.")
    if not rows:
        raise UserError(f"{path} has no rows; give a file with at least one.")
    return rows


def _csv(path: Path, notes: Notes) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    text = read_text(path)
    raw = _raw_lines(text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    before = 0
    doubtful = []
    try:
        header = _header(next(reader), path)
        before = reader.line_num
        for cells in reader:
            first, before = before, reader.line_num
            if not cells:
                continue
            where = f"line {first + 1} of {path}"
            yield where, _as_columns(header, cells, where)
            if before - first > 1 and _may_be_rows(raw[first:before], len(header)):
                doubtful.append((first + 1, before))
    except csv.Error as error:
        raise UserError(f"line {before + 1} of {path} is not well-formed CSV ({error}); correct the row.") from None
    _tell_doubtful(doubtful, path, notes)


def _raw_lines(text: str) -> list[str]:
    """Returns lines split as by the csv module."""
    return re.split(r"\r\n|\r|\n", text)


def _header(names: list[str], path: Path) -> list[str]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'{path} has two columns named "{twice}"; rename one.')
    wanted = "\t" if kind(path) == ".tsv" else ","
    other = next((mark for mark in _MARKS if mark != wanted and mark in names[0]), None) if len(names) == 1 else None
    if other:
        also = " (Excel writes them in many countries)" if other == ";" else ""
        raise UserError(
            f"{path} is separated by {_MARKS[other]}{also}, and a {kind(path)} file by {_MARKS[wanted]}; "
            + {",": "name it .csv.", "\t": "name it .tsv."}.get(other, f"save it with {_MARKS[wanted]}, or as .jsonl.")
        )
    return names


def _as_columns(header: list[str], cells: list[str], where: str) -> dict[str, str]:
    if len(cells) != len(header):
        raise UserError(f"{where} has {len(cells)} cells where the header has {len(header)}; correct the row.")
    if cells == header or cells == ["\ufeff" + header[0], *header[1:]]:
        raise UserError(f"{where} is the header again, as where files were joined; remove the line.")
    return dict(zip(header, cells, strict=True))


def _may_be_rows(raw: Sequence[str], columns: int) -> bool:
    """Returns whether each line of a quoted cell would parse as a row of its own.

    Commas followed by a space count as prose. A table within a cell does not count as rows: its last line also has
    the commas of the enclosing row.
    """
    return columns > 1 and all(len(re.findall(r",(?! )", line)) == columns - 1 for line in raw)


def _tell_doubtful(doubtful: list[tuple[int, int]], path: Path, notes: Notes) -> None:
    """Rejects quoted cells whose lines all look like rows; warns about two-line cells, where it may be chance."""
    for first, last in doubtful:
        if last - first > 1:
            raise UserError(
                f"lines {first} to {last} of {path} are one row, as a quotation mark opens in the first of them and "
                "closes in the last, and each looks like a row; double the marks that belong to the text, or give JSON "
                "lines."
            )
    if doubtful:
        (first, last), more = doubtful[0], len(doubtful) - 1
        also = f" (and {more} more such rows)" if more else ""
        notes.warnings.append(
            f"lines {first} and {last} of {path} are read as one row{also}, as a quotation mark opens in the first and "
            "closes in the second; if they are two rows, double that mark"
        )


def _tsv(path: Path) -> Iterator[Row]:
    """Yields rows of a format without quoting (IANA text/tab-separated-values): cells keep their quotation marks.

    Cells are unquoted if the file was written with quoting: doubled marks or a quoted header show it, and every cell
    with a mark is well-formed.
    """
    table = [(number, line.split("\t")) for number, line in enumerate(lines(read_text(path)), 1) if line.strip(" \r")]
    marked = [cell for _, cells in table for cell in cells if '"' in cell]
    shown = any('""' in cell[1:-1] for cell in marked) or all('"' in cell for cell in table[0][1])
    if marked and shown and all(_QUOTED.fullmatch(cell) for cell in marked):
        unquoted = lambda cell: cell[1:-1].replace('""', '"') if '"' in cell else cell
        table = [(number, [unquoted(cell) for cell in cells]) for number, cells in table]
    header = _header(table[0][1], path)
    for number, cells in table[1:]:
        where = f"line {number} of {path}"
        if len(cells) != len(header) and any('"' in cell for cell in cells):
            raise UserError(
                f"{where} has {len(cells)} cells where the header has {len(header)}; in TSV quotation marks do not "
                "hold a tab or a line end, so give such texts as .csv or .jsonl."
            )
        yield where, _as_columns(header, cells, where)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        # Not read_table, which interprets folders such as `lr=0.1` as columns.
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(read_bytes(path))).read()
    except (pyarrow.ArrowException, OSError) as error:
        reason = first_line(error)
        raise UserError(f"{path} cannot be read as Parquet ({reason}); replace the file.") from None
    yield from _of_table(table, path)


def _arrow(path: Path) -> Iterator[Row]:
    """Yields the rows of an Arrow file or stream (the format of `datasets`)."""
    import pyarrow
    import pyarrow.ipc

    source = pyarrow.BufferReader(read_bytes(path))
    try:
        try:
            table = pyarrow.ipc.open_file(source).read_all()
        except pyarrow.ArrowInvalid:
            source.seek(0)
            table = pyarrow.ipc.open_stream(source).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        reason = first_line(error)
        raise UserError(f"{path} cannot be read as Arrow ({reason}); replace the file.") from None
    yield from _of_table(table, path)


def _of_table(table: Any, path: Path) -> Iterator[Row]:
    import pyarrow

    names = table.column_names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'{path} has two columns named "{twice}"; rename one.')
    columns = {}
    for name in names:
        try:
            # `to_pylist` takes offsets and lengths as they are, also from outside the file.
            table.column(name).validate(full=True)
            columns[name] = table.column(name).to_pylist()
        except (ValueError, OverflowError, pyarrow.ArrowException) as error:
            if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
                raise UserError(f'{path} has a "{name}" that is not UTF-8; convert the column.') from None
            reason = first_line(error)
            raise UserError(f'{path} has a "{name}" that cannot be read ({reason}); remove the column.') from None
    for number in range(table.num_rows):
        yield f"row {number + 1} of {path}", {name: column[number] for name, column in columns.items()}


def field_of(columns: Mapping[str, Any], name: str) -> Any:
    """Returns the value of a column, or of a field inside one (`a.b`, `answers.text.0`); ABSENT if there is none."""
    if name in columns:
        return columns[name]
    value: Any = columns
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None if value is None else ABSENT
    return value


def text_field(row: Row, column: str, option: str = "") -> str:
    """Returns a column's text; numbers and booleans as JSON writes them.

    Args:
      column: its name, or that of a field inside it (see `field_of`).
      option: the option that names the column, for messages.

    Raises:
      UserError: it is missing or of another type; `EmptyField` if it is empty.
    """
    where, columns = row
    value = field_of(columns, column)
    if value is ABSENT:
        chosen = f" (--config.data.{option} chooses it)" if option else ""
        raise UserError(f'{where} has no column "{column}"{chosen}{did_you_mean(column, _names(columns))}')
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN is a missing text
        raise EmptyField(f'{where} has an empty "{column}"; fill it in or remove the row.')
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    if not isinstance(value, str):
        inner = _inner_names(column, value)
        hint = f"name a field inside it, as {inner[0]}" if inner else "correct the row"
        raise UserError(f'{where} has a "{column}" that is {type(value).__name__}, not text; {hint}.')
    return value


def _names(columns: Mapping[str, Any]) -> list[str]:
    """Returns the names of columns and of the fields of those that are objects."""
    return [str(name) for name in columns] + [
        inner for name, value in columns.items() for inner in _inner_names(str(name), value)
    ]


def _inner_names(name: str, value: Any) -> list[str]:
    return [f"{name}.{inner}" for inner in value] if isinstance(value, Mapping) else []


def value_at(value: Any, *keys: str | int, where: str, kind: type) -> Any:
    """Returns `value[key0][key1]...` of type `kind`; UserError naming the location of a mismatch."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise UserError(f'{where} has no "{key}" where one is expected; give a file of this task.') from None
    if not isinstance(value, kind):
        name = keys[-1] if keys else "value"
        raise UserError(
            f'{where} has a "{name}" that is {type(value).__name__}, not {kind.__name__}; correct the file.'
        )
    return value
