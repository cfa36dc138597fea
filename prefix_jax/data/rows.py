"""Records from rows with a source and a target column."""

from collections.abc import Callable

from prefix_jax.data.files import Row, text_field
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError


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


def one_line(text: str) -> str:
    """Returns a text with its lines joined by spaces."""
    return " ".join(text.split())


def summaries(source: str, target: str) -> Callable[..., list[Record]]:
    """Returns what makes records of a table's columns, each source on one line (see `data_set.Records`)."""
    return lambda table, split, columns, notes: from_columns(table, split, source, target, one_line=True)
