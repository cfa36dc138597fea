"""Perplexity: plain text, of which every token is predicted (language modelling)."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import ROW_SUFFIXES, Row, read_rows, read_text
from prefix_jax.data.records import Record, pair
from prefix_jax.data.rows import source_text
from prefix_jax.data.text_files import kind
from prefix_jax.metrics.perplexity import PERPLEXITY
from prefix_jax.tasks.task import Task

# Into how many pieces a set's texts are cut, at least, before they are divided among splits; and the shortest piece.
_PIECES, _SHORTEST = 50, 200


def parse(path: Path, notes: Any) -> list[Row]:
    """Returns the texts of a file: of a text file one, of a table one a row."""
    return [(str(path), {"text": read_text(path, "text")})] if kind(path) == ".txt" else read_rows(path, notes)


def records(table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
    """Returns one record per text, without a source."""
    return [pair("", _text(row, columns), None, f"{split}-{number}", 0) for number, row in enumerate(table)]


def _text(row: Row, columns: Columns) -> str:
    column = "text" if columns.source == "source" and "source" not in row[1] else columns.source
    return source_text(row, column, columns.source_template)


def pieces(found: list[Record]) -> list[Record]:
    """Returns long texts cut at white space into pieces, which can be divided among splits."""
    size = max(_SHORTEST, sum(len(record.target) for record in found) // _PIECES)
    cut = []
    for record in found:
        for k, text in enumerate(_cut(record.target, size)):
            cut.append(replace(record, target=text, references=(text,), id=f"{record.input_id}.{k}#0"))
    return cut


def _cut(text: str, size: int) -> Iterator[str]:
    """Yields pieces of a text of at least `size` characters (but the last), which end with a line where they can."""
    start = 0
    for word in re.finditer(r"\S+\s*", text):
        length = word.end() - start
        if length >= size and ("\n" in word[0] or length >= 2 * size) and len(text) - word.end() >= size:
            yield text[start : word.end()]
            start = word.end()
    yield text[start:]


TASK = Task(
    name="perplexity",
    data=DataSet(
        folder="perplexity",
        suffixes=(".txt", *ROW_SUFFIXES),
        parse=parse,
        records=records,
        pieces=pieces,
        templates=("source",),
    ),
    metrics=PERPLEXITY,
    plain_text=True,
)
