"""WebNLG Challenge 2017: triples to text, ten categories in training, five more in the test."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefix_jax.data.files import Row, read_json, value_at
from prefix_jax.data.reading import Notes
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError

Entry = tuple[str, str, list, list]  # location, category, triples, (text, comment)

UNSEEN = frozenset({"Artist", "Athlete", "CelestialBody", "MeanOfTransportation", "Politician"})


def seen(category: str | None) -> bool:
    """Returns whether a category has training records (the challenge scores seen and unseen ones separately)."""
    return category not in UNSEEN


def linearise(triples: Iterable[tuple[str, str, str]]) -> str:
    """Returns the paper's format: `' | s : p : o'` for each triple, the leading bar and space included."""
    return "".join(f" | {subject} : {relation} : {value}" for subject, relation, value in triples)


def parse(path: Path) -> list[Entry]:
    """Returns a file's entries with their locations."""
    entries = value_at(read_json(path), "entries", where=str(path), kind=list)
    parsed = []
    for number, wrapped in enumerate(entries, 1):
        where = f"entry {number} of {path}"
        if not isinstance(wrapped, dict) or len(wrapped) != 1:
            raise UserError(f"{where} is not one object under its number; give a WebNLG 2017 file.")
        parsed.append((where, *_entry(next(iter(wrapped.values())), where)))
    return parsed


def from_rows(rows: list[Row], split: str, notes: Notes | None = None) -> list[Record]:
    """Returns records from the hub's format, whose test rows repeat some inputs, with and without texts."""
    parsed, known = [], set()
    for where, row in rows:
        sets = value_at(row, "modified_triple_sets", "mtriple_set", 0, where=where, kind=list)
        triples = [tuple(part.strip() for part in triple.split(" | ")) for triple in sets]
        category = value_at(row, "category", where=where, kind=str)
        lex = value_at(row, "lex", where=where, kind=dict)
        texts = [(text, comment) for text, comment in zip(lex["text"], lex["comment"], strict=True) if text.strip()]
        key = (category, linearise(triples))
        if texts and key not in known:
            parsed.append((where, category, triples, texts))
        elif notes is not None:
            notes.left_out["rows of the hub without a text, or with an input for the second time"] += 1
        if texts and split == "test":
            known.add(key)
    return records(parsed, split, notes)


def _entry(entry: Any, where: str) -> tuple[str, list, list]:
    triples = [
        tuple(value_at(triple, key, where=where, kind=str) for key in ("subject", "property", "object"))
        for triple in value_at(entry, "modifiedtripleset", where=where, kind=list)
    ]
    texts = [
        (value_at(text, "lex", where=where, kind=str), value_at(text, "comment", where=where, kind=str))
        for text in value_at(entry, "lexicalisations", where=where, kind=list)
    ]
    return value_at(entry, "category", where=where, kind=str), triples, texts


def records(parsed: list[Entry], split: str, notes: Notes | None = None) -> list[Record]:
    """Returns one record per text; inputs are distinct (category, source). Training keeps texts marked good."""
    numbers: dict[tuple[str, str], list[int]] = {}
    found = []
    for where, category, triples, texts in parsed:
        source = linearise(triples)
        if not source:
            raise UserError(f"{where} has no triples; correct or remove the entry.")
        number = numbers.setdefault((category, source), [len(numbers), -1])
        for text, comment in texts:
            if split == "train" and comment != "good":
                if notes is not None:
                    notes.left_out["texts not marked good"] += 1
                continue
            if not text.strip():
                raise UserError(f'{where} has an empty "lex"; fill it in or remove it.')
            number[1] += 1
            found.append(pair(source, text.strip(), category, f"{split}-{number[0]}", number[1]))
    return found
