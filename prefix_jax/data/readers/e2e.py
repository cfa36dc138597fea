"""E2E NLG: the form of Li & Liang 2021 (`src1_*.txt`) and the challenge's own CSV."""

import re
from pathlib import Path

from prefix_jax.data.files import Row, read_rows, read_text, text_field
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError

_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")
_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


def read(path: Path, split: str) -> list[Record]:
    """Returns one record a text; inputs are the distinct sources. Reads `source||target` lines, or CSV with mr, ref."""
    if path.suffix.lower() != ".txt":
        return from_rows(read_rows(path), split)
    texts = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        source, bars, target = line.partition("||")
        if not bars or not source.strip() or not target.strip():
            raise UserError(f"line {number} of {path} is not `source||target` with both parts; mend the line.")
        texts.append((source.strip(), target.strip()))
    return _records(texts, split)


def from_rows(rows: list[Row], split: str) -> list[Record]:
    """Returns the records of the challenge's CSV (mr, ref) or of the hub's columns, the sources linearised."""
    texts = []
    for row in rows:
        columns = {name.lower(): name for name in row[1]}
        meaning = text_field(row, columns.get("mr", columns.get("meaning_representation", "mr")))
        text = text_field(row, columns.get("ref", columns.get("human_reference", "ref")))
        texts.append((linearise(meaning, row[0]), text.strip()))
    return _records(texts, split)


def linearise(meaning: str, where: str = "the row") -> str:
    """Returns `name[X], eatType[pub]` as the paper writes it: `name : X | Type : pub`."""
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


def _records(texts: list[tuple[str, str]], split: str) -> list[Record]:
    numbers: dict[str, list[int]] = {}
    records = []
    for source, target in texts:
        number = numbers.setdefault(source, [len(numbers), -1])
        number[1] += 1
        records.append(pair(source, target, None, f"{split}-{number[0]}", number[1]))
    return records
