"""What the measuring processes read, without importing either library: rows of token ids."""

import json
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """One record: the ids that condition, and the ids to be predicted, the end token included."""

    source: list[int]
    target: list[int]


def training_rows(folder: Path, count: int) -> list[Row]:
    rows = [Row(*pair) for pair in _read(folder)["train"][:count]]
    assert len(rows) == count, f"{folder} has only {len(rows)} rows"
    return rows


def test_sources(folder: Path, count: int) -> list[list[int]]:
    return _read(folder)["test"][:count]


def _read(folder: Path) -> dict:
    return json.loads((folder / "rows.json").read_text(encoding="utf-8"))
