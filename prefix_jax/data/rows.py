"""Records from rows with a source and a target column."""

from collections.abc import Callable
from typing import Any

from prefix_jax.data import templates
from prefix_jax.data.data_set import Columns, Prompt
from prefix_jax.data.files import ABSENT, EmptyField, Row, field_of, text_field
from prefix_jax.data.records import Record, pair


class Pair(dict[str, Any]):
    """The columns of a row that a caller gave as a pair: its texts are whole, whatever the templates are."""


def prompt(row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
    """Returns the source of a row in the columns or the template of a configuration, and no choices."""
    return source_text(row, columns.source, columns.source_template), ()


def of_columns(rows: list[Row], split: str, columns: Columns) -> list[Record]:
    """Does what `from_columns` does, with the columns or templates that a configuration names."""
    return from_columns(
        rows, split, columns.source, columns.target, patterns=(columns.source_template, columns.target_template)
    )


def from_columns(
    rows: list[Row],
    split: str,
    source: str,
    target: str,
    *,
    one_line: bool = False,
    patterns: tuple[str, str] = ("", ""),
) -> list[Record]:
    """Returns one record per row (several if `target`, or a column "references", is a list of texts).

    Rows with the same source (and "category", if that column exists) belong to one input.

    Args:
      one_line: join the lines of the source with spaces, as in line-based summary files.
      patterns: templates of source and target over columns, in place of one column each, but for a `Pair`; "": none.
    """
    numbers: dict[tuple[str, str | None], list[int]] = {}
    records = []
    for row in rows:
        own = ("", "") if isinstance(row[1], Pair) else patterns
        text = source_text(row, source, own[0], "source_column" if not one_line else "")
        text = " ".join(text.split()) if one_line else text
        category = row[1].get("category")
        category = category if isinstance(category, str) else None
        number = numbers.setdefault((text, category), [len(numbers), -1])
        made = [templates.filled(own[1], row, "target").strip()] if own[1] else None
        for wanted in made or _targets(row, target, "target_column" if not one_line else ""):
            number[1] += 1
            records.append(pair(text, wanted, category, f"{split}-{number[0]}", number[1]))
    return records


def source_text(row: Row, column: str, template: str = "", option: str = "source_column") -> str:
    """Returns the source of a row: of a template over columns, or of a column."""
    return (templates.filled(template, row, "source") if template else text_field(row, column, option)).strip()


def _targets(row: Row, column: str, option: str) -> list[str]:
    where, columns = row
    absent = field_of(columns, column) is ABSENT
    name = "references" if absent and "references" in columns else column
    value = field_of(columns, name)
    if not isinstance(value, list):
        return [text_field(row, name, option).strip()]
    if not value:
        raise EmptyField(f'{where} has an empty "{name}"; fill it in or remove the row.')
    return [text_field((where, {name: text}), name).strip() for text in value]


def one_line(text: str) -> str:
    """Returns a text with its lines joined by spaces."""
    return " ".join(text.split())


def summaries(source: str, target: str) -> Callable[..., list[Record]]:
    """Returns what makes records of a table's columns, each source on one line (see `data_set.Records`)."""
    return lambda table, split, columns, notes: from_columns(table, split, source, target, one_line=True)


def of_column(name: str) -> Prompt:
    """Returns the prompt of a set whose sources are a column."""
    return lambda row, columns: (text_field(row, name).strip(), ())
