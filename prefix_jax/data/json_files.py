"""Readers of JSON and JSON Lines, distinguished by content: either suffix is used for both."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefix_jax.data.text_files import kind, read_text
from prefix_jax.disk import lines
from prefix_jax.errors import UserError

Row = tuple[str, dict[str, Any]]  # location ("line 7 of rows.csv"), columns


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file; UserError with line and column if it is invalid."""
    return _decode(read_text(path), str(path), 0)


def rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a JSON array, an object with one list of rows, or JSON Lines."""
    yield from rows_of_text(read_text(path), path)


def rows_of_text(text: str, path: Path) -> Iterator[Row]:
    """Yields the rows of the text of such a file; `path` is its name."""
    whole = _array(text) if kind(path) == ".jsonl" else _whole(text, path)
    if whole is None:
        for number, line in enumerate(lines(text), 1):
            if line.strip():
                yield _as_row(_decode(line, str(path), number), f"line {number} of {path}")
        return
    for number, row in enumerate(whole, 1):
        yield _as_row(row, f"row {number} of {path}")


def _array(text: str) -> list[Any] | None:
    """Returns the rows of a JSON array in a file named as JSON Lines; None for other content."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = _parse(text)
    except (_Twice, ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and value and isinstance(value[0], dict) else None


def _whole(text: str, path: Path) -> list[Any] | None:
    """Returns the rows of a file with one JSON value; None for JSON Lines."""
    try:
        value = _parse(text)
    except (_Twice, ValueError, RecursionError) as error:
        several = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        if several and len([line for line in lines(text) if line.strip()]) > 1:
            return None
        value = _decode(text, str(path), 0)  # raises the error
    if isinstance(value, dict):
        value = _list_in(value, text, path)
    if not isinstance(value, list):
        raise UserError(f'{path} does not hold a list of rows; give [{{...}}, ...] or {{"data": [...]}}.')
    return value


def _list_in(value: dict[str, Any], text: str, path: Path) -> list[Any] | None:
    """Returns the only list of rows in an object, or the object if it is a row (JSON Lines of one line)."""
    if isinstance(value.get("data"), list):
        return value["data"]
    found = [key for key, rows in value.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if len(found) > 1:
        names = ", ".join(f'"{key}"' for key in found)
        raise UserError(f'{path} holds {len(found)} lists of rows ({names}); give one list, or name the one "data".')
    if found:
        return value[found[0]]
    one_line = len([line for line in lines(text) if line.strip()]) == 1
    return [value] if one_line and any(isinstance(cell, str) for cell in value.values()) else None


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object; give one object with named columns for each row.")
    return where, value


class _Twice(Exception):
    """Duplicate name in an object; JSON readers silently keep the last value."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


def _parse(text: str) -> Any:
    value = json.loads(text, object_pairs_hook=_once)
    if r"\ud" in text.lower():  # JSON can escape lone surrogates, which UTF-8 cannot encode
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _decode(text: str, where: str, line: int) -> Any:
    place = f" in line {line}" if line else ""
    try:
        return _parse(text)
    except _Twice as error:
        raise UserError(f'{where} has "{error}" twice in one object{place}; keep one of the two.') from None
    except json.JSONDecodeError as error:
        at = f"line {line or error.lineno}, column {error.colno}"
        raise UserError(f"{where} is not valid JSON at {at} ({error.msg}); correct the file.") from None
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise UserError(f"{where} has half of a surrogate pair ({half}){place}; correct the file.") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply to be read as JSON; correct the file.") from None
    except ValueError as error:  # a number with more digits than Python parses
        raise UserError(f"{where} cannot be read as JSON{place} ({error}); correct the file.") from None
