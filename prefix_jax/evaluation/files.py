"""What an evaluation knows of earlier scores and texts, and how it writes its own beside them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import prefix_jax.workdir as files
from prefix_jax import checksums
from prefix_jax.data.records import Record
from prefix_jax.workdir import SAMPLES, SCORES

# Characters of a reference that are kept.
_LONGEST = 20_000


def known_scores(workdir: Path) -> dict[str, Any]:
    """Returns the entries of `scores.json` by split; none where it is absent or damaged."""
    damage: list[str] = []
    found = files.read_scores(workdir, damage)
    if damage:
        print(f"{workdir / SCORES} was damaged and is written anew", file=sys.stderr)
    return found


def write_scores(workdir: Path, split: str, entry: Mapping[str, Any]) -> None:
    """Puts a split's entry into `scores.json`."""
    files.write_scores(workdir, {**known_scores(workdir), split: entry})


def set_details(entry: dict[str, Any], name: str, details: Mapping[str, Any]) -> None:
    """Puts what a model's scores leave out (a confusion matrix) into a split's entry, in place of earlier details."""
    kept = {key: {**entry.get("details", {}).get(key, {}), name: value} for key, value in details.items()}
    entry.pop("details", None)
    if kept:
        entry["details"] = kept


def known_samples(workdir: Path) -> list[dict[str, Any]]:
    """Returns the rows of `samples.jsonl`; none where it is absent or damaged."""
    damage: list[str] = []
    rows = files.read_samples(workdir, damage)
    if damage or any("split" not in row for row in rows):
        print(f"{workdir / SAMPLES} was damaged and is written anew", file=sys.stderr)
        return []
    return [row for row in rows if row["split"]]  # rows without a split are not ours


def write_samples(
    workdir: Path,
    split: str,
    records: Sequence[Record],
    texts: Mapping[str, Sequence[Any]],
    others: Sequence[Mapping[str, Any]],
    likelihoods: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes a split's texts, and its likelihoods if there are any, followed by the unchanged rows of other splits."""
    measured = {name: own for name, own in (likelihoods or {}).items() if own}
    rows = [
        {
            "split": split,
            "id": record.id,
            "source": record.source,
            "references": list(map(_shown, record.references)),
            **({"choices": list(record.choices)} if record.choices else {}),
            **{name: texts[name][i] if texts[name] else None for name in ("tuned", "bare")},
            **({"likelihoods": {name: own[i] for name, own in measured.items()}} if measured else {}),
        }
        for i, record in enumerate(records)
    ]
    files.write_samples(workdir, [*rows, *others])


def same_records(rows: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> bool:
    """Returns whether a split's rows belong to these records."""
    known = [(row.get("source"), row.get("references")) for row in rows]
    return known == [(record.source, list(map(_shown, record.references))) for record in records]


def _shown(text: str) -> str:
    """Returns a reference as `samples.jsonl` holds it: of a plain text of many pages, its beginning and a checksum."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} ... ({len(text):,} characters, checksum {checksums.of_bytes(text.encode())})"
