"""Reading CSV, TSV, JSON, JSONL and Parquet files; a sentence says what is wrong with one, naming file and line."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefix_jax.errors import UserError, did_you_mean

ROW_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

Row = tuple[str, dict[str, Any]]  # where ("line 7 of rows.csv"), columns


def read_text(path: Path) -> str:
    """Returns a UTF-8 file's text (a byte order mark is dropped); UserError if it is missing, empty or not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); give a readable file.") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = raw[error.start]
        raise UserError(
            f"{path} is not UTF-8: line {line} holds the byte 0x{byte:02x}; convert the file, for instance with iconv."
        ) from None
    if not text.strip():
        raise UserError(f"{path} is empty; give a file with at least one row.")
    return text


def read_json(path: Path) -> Any:
    """Returns a JSON file's value; UserError with line and column where it is not JSON."""
    return _decode(read_text(path), str(path), 0)


def _decode(text: str, where: str, line: int) -> Any:
    try:
        value = json.loads(text)
        if r"\ud" in text.lower():  # JSON can write half a character, which no file can hold
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise UserError(f"{where} is not valid JSON at {place} ({error.msg}); mend the file.") from None
    except UnicodeEncodeError as error:
        half, place = ascii(error.object[error.start])[1:-1], f" in line {line}" if line else ""
        raise UserError(f"{where} has half a character ({half}){place}; mend the file.") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply to be read as JSON; mend the file.") from None


def read_rows(path: Path) -> list[Row]:
    """Returns a table's rows with the place of each; the format follows the file's suffix."""
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is not a table this reads; give a file ending in {', '.join(ROW_SUFFIXES)}.")
    rows = list(reader(path))
    if not rows:
        raise UserError(f"{path} has no rows; give a file with at least one.")
    return rows


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    before = 0
    try:
        header = next(reader)
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise UserError(f'{path} has two columns named "{twice}"; rename one.')
        before = reader.line_num
        for cells in reader:
            where, before = f"line {before + 1} of {path}", reader.line_num
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(f"{where} has {len(cells)} cells where the header has {len(header)}; mend the row.")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"line {before + 1} of {path} is not well-formed CSV ({error}); mend the row.") from None


def _jsonl(path: Path) -> Iterator[Row]:
    # str.splitlines would also split at U+2028 and the like, which JSON strings may hold.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield _as_row(_decode(line, str(path), number), f"line {number} of {path}")


def _json(path: Path) -> Iterator[Row]:
    value = read_json(path)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        raise UserError(f'{path} holds no list of rows; give [{{...}}, ...] or {{"data": [...]}}.')
    for number, row in enumerate(value, 1):
        yield _as_row(row, f"row {number} of {path}")


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object; give one object with named columns for each row.")
    return where, value


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path} cannot be read as Parquet ({reason}); mend or replace the file.") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"row {number} of {path}", row


def text_field(row: Row, column: str, option: str = "") -> str:
    """Returns a column's text; UserError if the column is missing, empty or not text. `option` chooses the column."""
    where, columns = row
    if column not in columns:
        mend = f" (--config.data.{option} chooses it)" if option else ""
        raise UserError(f'{where} has no column "{column}"{mend}{did_you_mean(column, [str(c) for c in columns])}')
    value = columns[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(f'{where} has an empty "{column}"; fill it in or remove the row.')
    if not isinstance(value, str):
        raise UserError(f'{where} has a "{column}" that is {type(value).__name__}, not text; mend the row.')
    return value


def value_at(value: Any, *keys: str | int, where: str, kind: type) -> Any:
    """Returns `value[key0][key1]...` of type `kind`; UserError naming the place where the JSON has another shape."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise UserError(f'{where} has no "{key}" where one is expected; is it a file of this task?') from None
    if not isinstance(value, kind):
        name = keys[-1] if keys else "value"
        raise UserError(f'{where} has a "{name}" that is {type(value).__name__}, not {kind.__name__}; mend the file.')
    return value
