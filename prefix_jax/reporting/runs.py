"""Runs beside each other, from their files: a table of those in a folder, and the options in which two differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefix_jax import workdir as files
from prefix_jax.errors import UserError
from prefix_jax.options import flat
from prefix_jax.reporting.tables import forgetting_of, metric_text, signed

COLUMNS = ("run", "task", "model", "method", "steps", "split", "score", "bare", "forgetting", "verdict", "started")


@dataclass(frozen=True)
class RunLine:
    """A run's line in the table; `score` and `bare` are of the task's main metric, `forgetting` in nats per token."""

    run: str
    task: str
    model: str
    method: str
    steps: int
    split: str
    score: str
    bare: str
    forgetting: str
    verdict: str
    started: str

    def row(self) -> list[Any]:
        return [getattr(self, name) for name in COLUMNS]


def listed(folder: Path) -> list[RunLine]:
    """Returns the runs in a folder and below it, in the order of their names.

    Raises:
      UserError: there are none.
    """
    found = [_line(path, folder) for path in sorted(_below(folder)) if not _is_model(path)]
    if not found:
        raise UserError(f"there are no runs in {folder}; name a folder with run directories")
    return found


def differences(one: Path, other: Path) -> list[list[Any]]:
    """Returns name and both values of each option in which two runs differ; None where a run does not have it.

    Raises:
      UserError: one of them is not a run.
    """
    left, right = (flat(files.read_config(path)["config"]) for path in (one, other))
    names = list(dict.fromkeys([*left, *right]))
    return [[name, left.get(name), right.get(name)] for name in names if left.get(name) != right.get(name)]


def _below(folder: Path) -> Iterator[Path]:
    """Yields the run directories, without descending into them."""
    if files.is_run(folder):
        yield folder
    elif folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                yield from _below(path)


def _is_model(path: Path) -> bool:
    """Returns whether a folder's `config.json` is not a run's."""
    try:
        return "config" not in files.read_config_for_display(path)
    except UserError:
        return False  # damaged: it is listed


def _line(path: Path, folder: Path) -> RunLine:
    try:
        record = files.read_config(path)
    except UserError:
        record = {}
    config = flat(record.get("config", {}))
    scores = files.read_scores(path, [])
    split = next((name for name in ("test", "validation", *scores) if name in scores), "")
    entry = scores.get(split, {})
    tuned, bare, about = entry.get("tuned", {}), entry.get("bare") or {}, entry.get("metrics")
    main = next((name for name, value in tuned.items() if value is not None), "")
    steps = max((files.step_of(line) for line in files.read_metrics(path)), default=0)
    change = forgetting_of(scores, split)
    looks = "looks failed" if entry.get("verdict") else ""
    return RunLine(
        run=str(path.relative_to(folder)) if path != folder else path.name,
        task=str(config.get("data.task", "")),
        model=str(config.get("model.source", "")).rstrip("/").rpartition("/")[2],
        method=str(config.get("method", "")),
        steps=steps,
        split=split,
        score=f"{main} {metric_text(main, tuned[main], about)}" if main else "",
        bare=metric_text(main, bare[main], about) if bare.get(main) is not None else "",
        forgetting="" if change is None else signed(change, 3),
        verdict=looks,
        started=str(record.get("started", ""))[:16].replace("T", " "),
    )
