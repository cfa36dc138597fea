"""Stored results of a study: one line of `results.jsonl` per run, with everything that determined its scores."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prefix_jax.config import changed, default_config, flat
from prefix_jax.disk import read_json_lines, write_text
from prefix_jax.workdir import read_config, read_metrics, read_scores, read_sweep

FILE_NAME = "results.jsonl"
# Final states of a row.
ENDED = ("scored", "diverged")


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
      name: name of the row in its sweep.
      scale: scale of the study, "paper" or "cpu".
      status: "scored", or "diverged" if its loss was not finite.
      commit: commit of the source tree; "+" for uncommitted changes.
      config: non-default options, by dotted name.
      seeds: seeds of training, record order, and subset selection.
      counts: parameters trained, stored, and of the model.
      scoring: the records that were scored.
      scores: scores by metric, as returned by the task's scorer.
      seconds: wall time of training; the total if several runs share a program.
      tuned: SHA-256 of the tuned state.
    """

    name: str
    scale: str
    status: str
    commit: str
    config: Mapping[str, Any]
    seeds: Mapping[str, int]
    counts: Mapping[str, int]
    scoring: Mapping[str, Any]
    scores: Mapping[str, float]
    steps: int
    seconds: float
    tuned: str

    def option(self, name: str) -> Any:
        """Returns an option of the run by its dotted name."""
        return self.config[name] if name in self.config else flat(default_config().to_dict())[name]

    @property
    def share(self) -> float:
        """Stored parameters over the model's."""
        return self.counts["stored"] / self.counts["base"]


def read(path: Path) -> list[Result]:
    """Returns the results in a file; empty if it is absent."""
    if not path.is_file():
        return []
    known = [field.name for field in dataclasses.fields(Result)]
    return [Result(**{name: line[name] for name in known}) for line in read_json_lines(path)]


class Asked(NamedTuple):
    """A row of a sweep: its options and scoring, and its result once it has ended."""

    name: str
    config: Mapping[str, Any]
    scoring: Mapping[str, Any]
    result: Result | None

    def answered_by(self, earlier: Result) -> bool:
        """Returns whether an earlier result belongs to exactly this run."""
        scoring = {name: value for name, value in earlier.scoring.items() if name != "records"}
        return (earlier.name, earlier.config, scoring) == (self.name, self.config, self.scoring)


def keep(path: Path, scale: str, rows: Sequence[Asked]) -> None:
    """Replaces a file's results of one scale by those of a sweep's rows; the earlier result of an unfinished row is
    kept if it belongs to the same run.
    """
    earlier = read(path)
    lasting = [result for result in earlier if result.scale != scale]
    for row in rows:
        before = [result for result in earlier if result.scale == scale and row.answered_by(result)]
        lasting += [row.result] if row.result else before[:1]
    write_text(path, "".join(json.dumps(dataclasses.asdict(r), ensure_ascii=False) + "\n" for r in lasting))


def of_sweep(workdir: Path, scale: str) -> list[Asked]:
    """Returns the rows of a sweep."""
    record = read_sweep(workdir)
    scoring = {name: record[name] for name in ("split", "limit", "spread") if record.get(name)}

    def asked(row: Mapping[str, Any]) -> Asked:
        ended, folder = row["status"] in ENDED, workdir / row["directory"]
        result = of_run(folder, row["name"], scale, row["status"], scoring) if ended else None
        return Asked(row["name"], row["config"], scoring, result)

    return [asked(row) for row in record["rows"]]


def of_run(folder: Path, name: str, scale: str, status: str, scoring: Mapping[str, Any]) -> Result:
    """Returns the result of a run directory."""
    record = read_config(folder)
    config = flat(record["config"])
    last = read_metrics(folder)[-1]
    entry: dict[str, Any] = {}
    if status == "scored":
        entry = read_scores(folder)[scoring["split"]]
    return Result(
        name=name,
        scale=scale,
        status=status,
        commit=record["commit"] or "",
        config=changed(record["config"]),
        seeds={"training": config["training.seed"], "data": config["data.seed"], **_subset(config)},
        counts=record["parameters"],
        scoring={**scoring, **({"records": entry["records"]} if entry else {})},
        scores=entry.get("tuned", {}),
        steps=last["step"],
        seconds=round(last["seconds"], 1),
        tuned=entry.get("prefix") or "",
    )


def _subset(config: Mapping[str, Any]) -> dict[str, int]:
    seed = config.get("data.limit_seed", -1)
    return {"subset": seed} if seed >= 0 else {}


def grouped(found: Sequence[Result], key: Callable[[Result], Any]) -> list[list[Result]]:
    """Groups results by key, in order of first occurrence."""
    groups: dict[str, list[Result]] = {}
    for result in found:
        groups.setdefault(json.dumps(key(result)), []).append(result)
    return list(groups.values())
