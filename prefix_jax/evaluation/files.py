"""`scores.json` and `samples.jsonl` of a run directory."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefix_jax import disk
from prefix_jax.data.records import Record


def read_scores(workdir: Path) -> dict[str, Any]:
    """Returns the entries of `scores.json` by split; empty if it is absent or damaged."""
    path = workdir / "scores.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(found, dict):
            raise ValueError
        return found
    except ValueError:
        print(f"{path} was damaged and will be rewritten", file=sys.stderr)
        return {}


def write_scores(workdir: Path, split: str, entry: Mapping[str, Any]) -> None:
    """Stores a split's entry in `scores.json`."""
    scores = {**read_scores(workdir), split: entry}
    disk.write_text(workdir / "scores.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")


def known_samples(workdir: Path) -> list[dict[str, Any]]:
    """Returns the rows of `samples.jsonl`; empty if it is absent or damaged."""
    try:
        rows = read_samples(workdir) if (workdir / "samples.jsonl").exists() else []
        return [row for row in rows if row["split"]]  # rows without a split are not ours
    except (ValueError, KeyError, TypeError):
        print(f"{workdir}/samples.jsonl was damaged and will be rewritten", file=sys.stderr)
        return []


def write_samples(
    workdir: Path,
    split: str,
    records: Sequence[Record],
    texts: Mapping[str, Sequence[Any]],
    others: Sequence[Mapping[str, Any]],
) -> None:
    """Writes a split's texts, followed by the unchanged rows of other splits."""
    rows = [
        {
            "split": split,
            "id": record.id,
            "source": record.source,
            "references": list(record.references),
            **{name: texts[name][i] if texts[name] else None for name in ("tuned", "bare")},
        }
        for i, record in enumerate(records)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, *others])
    disk.write_text(workdir / "samples.jsonl", text)


def read_samples(workdir: Path) -> list[dict[str, Any]]:
    """Returns the rows of `samples.jsonl`, those of the last scored split first."""
    return disk.read_json_lines(workdir / "samples.jsonl")


def same_records(rows: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> bool:
    """Returns whether a split's rows belong to these records."""
    known = [(row.get("source"), row.get("references")) for row in rows]
    return known == [(record.source, list(record.references)) for record in records]
