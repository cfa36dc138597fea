"""Translation: WMT's rows, or a column for each of two languages."""

from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row, text_field
from prefix_jax.data.hub import HubSet
from prefix_jax.data.records import Record
from prefix_jax.data.rows import from_columns
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.metrics.shared import TRANSLATION
from prefix_jax.tasks.task import Task


def records(rows: list[Row], split: str, source: str, target: str) -> list[Record]:
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


def configuration(columns: Columns) -> str:
    """Returns the pair of WMT 2016: the other language first, then "en".

    Raises:
      UserError: "en" is not one of the two.
    """
    languages = (columns.source, columns.target)
    if "en" not in languages:
        raise UserError(
            'Task "translation" needs its two languages, one of them "en": set --config.data.source_column and '
            "--config.data.target_column, for instance to en and de."
        )
    return f"{languages[0] if languages[1] == 'en' else languages[1]}-en"


def prompt(row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
    """Returns the text of a row in the source language."""
    where, found = row
    inner = found.get("translation", found)
    return text_field((where, inner if isinstance(inner, dict) else found), columns.source, "source_column").strip(), ()


def _of_table(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    return records(table, split, columns.source, columns.target)


TASK = Task(
    name="translation",
    data=DataSet(
        folder="translation",
        records=_of_table,
        hub=HubSet("wmt/wmt16", configuration),
        from_hub=_of_table,
        prompt=prompt,
    ),
    metrics=TRANSLATION,
    columns_are_languages=True,
    pipeline_tag="translation",
)
