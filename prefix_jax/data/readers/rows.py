"""Tasks with rows of a source and a target: summarisation, translation, user tables."""

from typing import Any

from prefix_jax.data.files import Row, text_field
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError, did_you_mean


def from_columns(rows: list[Row], split: str, source: str, target: str, *, one_line: bool = False) -> list[Record]:
    """Returns one record per row (several if `target`, or a column "references", is a list of texts).

    Rows with the same source (and "category", if that column exists) belong to one input. `one_line` joins the lines of
    the source with spaces, as in line-based summary files.
    """
    numbers: dict[tuple[str, str | None], list[int]] = {}
    records = []
    for row in rows:
        text = text_field(row, source, "source_column" if not one_line else "").strip()
        text = " ".join(text.split()) if one_line else text
        category = row[1].get("category")
        category = category if isinstance(category, str) else None
        number = numbers.setdefault((text, category), [len(numbers), -1])
        for wanted in _targets(row, target, "target_column" if not one_line else ""):
            number[1] += 1
            records.append(pair(text, wanted, category, f"{split}-{number[0]}", number[1]))
    return records


def _targets(row: Row, column: str, option: str) -> list[str]:
    where, columns = row
    name = column if column in columns else "references" if "references" in columns else column
    if not isinstance(columns.get(name), list):
        return [text_field(row, name, option).strip()]
    if not columns[name]:
        raise UserError(f'{where} has an empty "{name}"; fill it in or remove the row.')
    return [text_field((where, {name: text}), name).strip() for text in columns[name]]


def translation(rows: list[Row], split: str, source: str, target: str) -> list[Record]:
    """Returns records from WMT's format, {"translation": {"en": ..., "de": ...}}, or from two columns."""
    flat = []
    for where, columns in rows:
        pair_ = columns.get("translation", columns)
        flat.append((where, _languages(pair_, source, target, where)))
    return from_columns(flat, split, source, target)


def _languages(columns: Any, source: str, target: str, where: str) -> dict[str, Any]:
    if not isinstance(columns, dict):
        raise UserError(f'{where} has a "translation" that is not an object of languages; fix the row.')
    for option, name in (("source_column", source), ("target_column", target)):
        if name not in columns:
            hint = did_you_mean(name, [str(c) for c in columns])
            raise UserError(f'{where} has no language "{name}" (--config.data.{option} chooses it){hint}')
    return columns
