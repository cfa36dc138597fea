"""E2E NLG: the format of Li & Liang 2021 (`src1_*.txt`) and the challenge's CSV."""

import re
from collections.abc import Sequence
from pathlib import Path

from prefix_jax.data.files import Row, read_rows, read_text, text_field
from prefix_jax.data.reading import Notes
from prefix_jax.data.records import Record, pair
from prefix_jax.data.text_files import kind, stem
from prefix_jax.disk import lines
from prefix_jax.errors import UserError

Text = tuple[str, str]  # source, target

_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")
_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


def read(path: Path, split: str) -> list[Record]:
    """Returns one record per text from `source||target` lines, or CSV with mr, ref; inputs are distinct sources."""
    return records(parse(path), split)


def preferred(files: Sequence[Path]) -> Sequence[Path]:
    """Prefers the paper's files to the challenge's CSV, and CSV with references to CSV without."""
    texts = [path for path in files if kind(path) == ".txt"] or list(files)
    return [path for path in texts if "ref" in stem(path)] or texts


def parse(path: Path, notes: Notes | None = None) -> list[Text]:
    """Returns a file's (source, target) texts."""
    if kind(path) != ".txt":
        return _texts(read_rows(path, notes))
    texts = []
    for number, line in enumerate(lines(read_text(path)), 1):
        if not line.strip():
            continue
        source, bars, target = line.partition("||")
        if not bars or not source.strip() or not target.strip():
            raise UserError(f"line {number} of {path} is not `source||target` with both parts; correct the line.")
        if "\r" in line and "||" in target:
            raise UserError(f"line {number} of {path} holds two rows with a bare \\r between them; end lines with \\n.")
        texts.append((source.strip(), target.strip()))
    return texts


def from_rows(rows: list[Row], split: str) -> list[Record]:
    """Returns the records of the challenge's CSV (mr, ref) or of the hub's columns, the sources linearised."""
    return records(_texts(rows), split)


def _texts(rows: list[Row]) -> list[Text]:
    texts = []
    for row in rows:
        columns = {name.lower(): name for name in row[1]}
        meaning = text_field(row, columns.get("mr", columns.get("meaning_representation", "mr")))
        text = text_field(row, columns.get("ref", columns.get("human_reference", "ref")))
        texts.append((linearise(meaning, row[0]), text.strip()))
    return texts


def linearise(meaning: str, where: str = "the row") -> str:
    """Converts `name[X], eatType[pub]` to the paper's format: `name : X | Type : pub`."""
    slots, at = [], 0
    while at < len(meaning):
        match = _SLOT.match(meaning, at)
        if match is None:
            raise UserError(f'{where} has a meaning representation that is not `name[X], ...`: "{meaning[:60]}".')
        name, value = match.group(1).strip(), match.group(2).strip()
        slots.append(f"{_NAMES.get(name, name)} : {_spaced(value)}")
        at = match.end()
    return " | ".join(slots)


def _spaced(value: str) -> str:
    # The paper's files went through spaCy, which sets currency signs and the dash of a range apart.
    return re.sub(r"(?<=\d)-(?=\d)", " - ", re.sub(r"£(?=\d)", "£ ", value))


def records(texts: list[Text], split: str) -> list[Record]:
    """Returns one record per text; texts with the same source belong to one input."""
    numbers: dict[str, list[int]] = {}
    found = []
    for source, target in texts:
        number = numbers.setdefault(source, [len(numbers), -1])
        number[1] += 1
        found.append(pair(source, target, None, f"{split}-{number[0]}", number[1]))
    return found
