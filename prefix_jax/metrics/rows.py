"""Rows to score: a hypothesis and its references, validated, and read from JSON Lines."""

import json
import sys
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

from prefix_jax.errors import UserError


class Row(TypedDict):
    """One output and its references. Some tasks' rows also have the `category` of their record, and its `choices`.

    `likelihood` is the loss of the references, as `metrics.perplexity.spelled` writes it, where it is not the output.
    """

    hypothesis: str
    references: list[str]
    category: NotRequired[str | None]
    choices: NotRequired[Sequence[str] | None]
    likelihood: NotRequired[str]


def check_row(row: Any, where: str) -> Row:
    """Returns `row` after validation; `where` names it in messages ("line 3 of rows.jsonl").

    An empty hypothesis is valid and scores badly; an empty reference is allowed beside others, because DART has one.

    Raises:
      UserError: a field is missing or of the wrong type, or all references are empty.
    """
    if not isinstance(row, dict):
        raise UserError(f'{where} is not an object such as {{"hypothesis": "...", "references": ["..."]}}.')
    for field in ("hypothesis", "references"):
        if field not in row:
            raise UserError(f'{where} has no "{field}"; each row needs "hypothesis" and "references".')
    if not isinstance(row["hypothesis"], str):
        raise UserError(f'{where}: "hypothesis" must be a string, not {_kind(row["hypothesis"])}.')
    references = row["references"]
    if not isinstance(references, list | tuple):
        raise UserError(f'{where}: "references" must be a list of strings, not {_kind(references)}.')
    wrong = next((text for text in references if not isinstance(text, str)), None)
    if wrong is not None or None in references:
        raise UserError(f'{where}: "references" must hold strings only, not {_kind(wrong)}.')
    if not any(text.strip() for text in references):
        raise UserError(f'{where}: "references" holds no text; a row needs at least one reference.')
    if not isinstance(row.get("category") or "", str):
        raise UserError(f'{where}: "category" must be a string, not {_kind(row["category"])}.')
    choices = row.get("choices") or []
    if not isinstance(choices, list | tuple) or not all(isinstance(text, str) for text in choices):
        raise UserError(f'{where}: "choices" must be a list of strings.')
    return row  # type: ignore[return-value]


def check_rows(rows: Sequence[Any]) -> None:
    """Validates every row; messages number rows from 1.

    Raises:
      UserError: there are no rows, or a row is invalid.
    """
    if not rows:
        raise UserError("There are no rows to score.")
    for number, row in enumerate(rows, start=1):
        check_row(row, f"Row {number}")


def read_rows(path: str) -> list[Row]:
    """Reads rows from a UTF-8 file of JSON Lines ("-": standard input); blank lines are skipped.

    Raises:
      UserError: the file cannot be read, holds no rows, or a line is not UTF-8, not JSON or not a row.
    """
    name = "standard input" if path == "-" else path
    rows = []
    # Split at \n only: JSON strings may contain Unicode's other line separators.
    for number, line in enumerate(_read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"Line {number} of {name}"
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"{where} is not UTF-8; save the file in that encoding.") from None
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            raise UserError(f"{where} is not valid JSON ({reason}); each line must be one object.") from None
        rows.append(check_row(row, where))
    if not rows:
        raise UserError(f"{name} holds no rows; each line must be one JSON object.")
    return rows


def _read_bytes(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from None


def _kind(value: Any) -> str:
    """Returns JSON's name for the type of `value`, with an article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
