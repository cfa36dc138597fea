"""WebNLG Challenge 2017: triples to text, ten categories in training, five more in the test."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prefix_jax.data.data_set import DataSet
from prefix_jax.data.files import Row, read_json, value_at
from prefix_jax.data.hub import HubSet
from prefix_jax.data.reading import Notes
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.metrics import normalise
from prefix_jax.metrics.languages import Language, other_letters
from prefix_jax.metrics.metric import How, Measured
from prefix_jax.metrics.rows import Row as Scored
from prefix_jax.metrics.shared import three_metrics, three_references
from prefix_jax.tasks.task import Task

Entry = tuple[str, str, list, list]  # location, category, triples, (text, comment)

SEEN = (
    "Airport", "Astronaut", "Building", "City", "ComicsCharacter", "Food", "Monument", "SportsTeam", "University",
    "WrittenWork",
)  # fmt: skip
UNSEEN = ("Artist", "Athlete", "CelestialBody", "MeanOfTransportation", "Politician")


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


def as_read(text: str) -> str:
    """Returns a typed text as the reader gives it: with a bar and a space before the first triple."""
    return f" {text.lstrip()}" if text.lstrip().startswith("| ") else text


def measure(rows: Sequence[Scored], how: How) -> Measured:
    """As `run_eval_on_webnlg.sh` of github.com/Yale-LILY/dart, for the seen, the unseen and all categories.

    A part that has no rows (the development set has no unseen category) has no scores.
    """
    prepared = [_forms(row, how.language) for row in rows]
    unseen = [_is_unseen(row, number) for number, row in enumerate(rows, start=1)]
    parts = {
        "seen": [place for place, is_unseen in enumerate(unseen) if not is_unseen],
        "unseen": [place for place, is_unseen in enumerate(unseen) if is_unseen],
        "all": list(range(len(rows))),
    }
    by_part = three_references(prepared, {name: places for name, places in parts.items() if places}, how)
    found = Measured()
    for kind in ("BLEU", "METEOR", "TER"):
        for name, part in by_part.items():
            if kind in part.scores:
                found.add(f"{kind}_{name}", part.scores[kind], signature=part.signatures.get(kind, ""))
            elif kind in part.unmeasured:
                found.unmeasured[f"{kind}_{name}"] = part.unmeasured[kind]
    return found


def _forms(row: Scored, language: Language) -> Scored:
    """Returns a row in the official forms, which are of English: those of outputs and references differ for letters of
    other scripts, so that rows which have them get one form for both.
    """
    if language.code == "en" and not any(other_letters(text) for text in row["references"]):
        of_output, of_reference = normalise.webnlg_hypothesis, normalise.webnlg_reference
    else:
        of_output = of_reference = normalise.dart
    return {
        "hypothesis": of_output(row["hypothesis"]),
        "references": [of_reference(text) for text in row["references"]],
    }


def _is_unseen(row: Scored, number: int) -> bool:
    category = row.get("category")
    if not category:
        raise UserError(f'Row {number} has no "category", which tells the seen records of WebNLG from the unseen ones.')
    if category not in SEEN + UNSEEN:
        hint = did_you_mean(category, SEEN + UNSEEN)
        raise UserError(f'Row {number}: WebNLG 2017 has no category "{category}"{hint}')
    return category in UNSEEN


TASK = Task(
    name="webnlg",
    data=DataSet(
        folder="webnlg2017",
        suffixes=(".json",),
        parse=lambda path, notes: parse(path),
        records=lambda items, split, columns, notes: records(items, split, notes),
        hub=HubSet("webnlg-challenge/web_nlg", "webnlg_challenge_2017", validation="dev"),
        from_hub=lambda rows, split, columns, notes: from_rows(rows, split, notes),
    ),
    metrics=three_metrics(measure),
    as_read=as_read,
    check_row=_is_unseen,
    category=SEEN[0],
)
