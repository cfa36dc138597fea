"""DART: open-domain triples to text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefix_jax.data.data_set import DataSet
from prefix_jax.data.files import Row, read_json, value_at
from prefix_jax.data.hub import HubSet
from prefix_jax.data.reading import Notes
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError
from prefix_jax.metrics import normalise
from prefix_jax.metrics.metric import How, Measured
from prefix_jax.metrics.rows import Row as Scored
from prefix_jax.metrics.shared import three_metrics, three_references
from prefix_jax.tasks.task import Task

Item = tuple[str, Any]  # location, item of a file


def linearise(triples: list[list[str]]) -> str:
    """Returns the paper's format: `s : p.lower() : o`, joined by ` | `."""
    return " | ".join(f"{subject} : {relation.lower()} : {value}" for subject, relation, value in triples)


def parse(path: Path) -> list[Item]:
    """Returns a file's items with their locations."""
    items = read_json(path)
    if not isinstance(items, list) or not items:
        raise UserError(f"{path} does not hold a list of items; give a DART file.")
    return [(f"item {number} of {path}", item) for number, item in enumerate(items, 1)]


def from_rows(rows: list[Row], split: str, notes: Notes | None = None) -> list[Record]:
    """Returns records from the hub's format (annotations as a dict of lists)."""
    items = []
    for where, row in rows:
        found = value_at(row, "annotations", where=where, kind=object)
        if isinstance(found, dict):
            found = [{"source": s, "text": t} for s, t in zip(found["source"], found["text"], strict=True)]
        items.append((where, {"tripleset": row.get("tripleset"), "annotations": found}))
    return records(items, split, notes)


def records(items: list[Item], split: str, notes: Notes | None = None) -> list[Record]:
    """Returns one record per text.

    Inputs are the items, some of which share a source: the official scorer expects one hypothesis per item. Empty texts
    (one in the test split of v1.1.1) are dropped: the scorer treats a missing reference as an empty one.
    """
    found = []
    for number, (where, item) in enumerate(items):
        triples = value_at(item, "tripleset", where=where, kind=list)
        if not triples or any(not isinstance(t, list) or len(t) != 3 or not all(map(_text, t)) for t in triples):
            raise UserError(f"{where} has a tripleset that is not a list of three texts each; correct the item.")
        given = value_at(item, "annotations", where=where, kind=list)
        texts = [value_at(one, "text", where=where, kind=str).strip() for one in given]
        if notes is not None and "" in texts:
            notes.left_out["empty texts"] += texts.count("")
        texts = [text for text in texts if text]
        if not texts:
            raise UserError(f"{where} has no text; fill it in or remove the item.")
        source = linearise(triples)
        found += [pair(source, text, None, f"{split}-{number}", k) for k, text in enumerate(texts)]
    return found


def _text(value: Any) -> bool:
    return isinstance(value, str)


def measure(rows: Sequence[Scored], how: How) -> Measured:
    """As `run_eval_on_dart.sh` of github.com/Yale-LILY/dart (BLEU, METEOR, TER)."""
    prepared: list[Scored] = [
        {
            "hypothesis": normalise.dart(row["hypothesis"]),
            "references": [normalise.dart(text) for text in row["references"]],
        }
        for row in rows
    ]
    return three_references(prepared, {"all": range(len(rows))}, how)["all"]


TASK = Task(
    name="dart",
    data=DataSet(
        folder="dart",
        suffixes=(".json",),
        parse=lambda path, notes: parse(path),
        records=lambda items, split, columns, notes: records(items, split, notes),
        hub=HubSet("Yale-LILY/dart"),
        from_hub=lambda rows, split, columns, notes: from_rows(rows, split, notes),
    ),
    metrics=three_metrics(measure),
    as_read=lambda text: text,
)
