"""The files of a run directory and of a sweep's: their names, atomic writers, and readers that tolerate damage.

Every other module takes the names from here. A reader returns what it can read of a file that may be missing, torn or
half written, and appends a sentence to `notes` about anything it leaves out; `read_config` and `read_sweep` refuse a
damaged file, because nothing can be done without it. What is returned is of the types in `workdir_schemas`.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prefix_jax import schema
from prefix_jax import workdir_schemas as schemas
from prefix_jax.disk import from_json, write_text
from prefix_jax.errors import UserError, one_line

# A run directory.
CONFIG = "config.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
WANDB_ID = "wandb_id.txt"
CHECKPOINTS = "checkpoints"
TUNED = "tuned"
SCORES = "scores.json"
SAMPLES = "samples.jsonl"
INSPECTION = "inspection.json"
REPORT = "report.html"

# A run directory of a distilled document, beside these.
QUESTIONS = "questions.jsonl"
STUDY = "study"
DISTILLATION = "distillation.json"

# A sweep's directory.
SWEEP = "sweep.json"
RUNS = "runs"
TOGETHER = "together"
JOBS = "jobs"
TABLE = "table.md"


def is_run(workdir: Path) -> bool:
    return (workdir / CONFIG).exists()


def is_sweep(workdir: Path) -> bool:
    return (workdir / SWEEP).exists()


_AGAIN = "train again into a new --workdir"


def read_config(workdir: Path) -> dict[str, Any]:
    """Returns `config.json` of a run directory.

    Raises:
      UserError: the file is missing or damaged.
    """
    schema.checked(found := read_config_for_display(workdir), schemas.Config, workdir / CONFIG, _AGAIN)
    return found


def read_config_for_display(workdir: Path) -> dict[str, Any]:
    """Returns the object in `config.json`, unchecked.

    Raises:
      UserError: the file is missing, or is not a JSON object.
    """
    path = workdir / CONFIG
    try:
        found = from_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{workdir} is not a run directory (it has no {CONFIG}); give the --workdir of a training run"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_AGAIN}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold the configuration of a run; {_AGAIN}")
    return found


def write_config(workdir: Path, record: Mapping[str, Any]) -> None:
    write_text(workdir / CONFIG, json.dumps(record, indent=2) + "\n")


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Returns the lines of `metrics.jsonl` with their finite scalars, without lines that have no step."""
    whole = [line for line in _read_lines(workdir / METRICS) if step_of(line) >= 0]
    return [{name: value for name, value in line.items() if isinstance(value, int | float)} for line in whole]


def read_curves(workdir: Path, notes: list[str] | None = None) -> list[dict[str, float]]:
    """Returns the lines of `metrics.jsonl` with all their scalars: null and "NaN" as NaN, "Infinity" as infinity."""
    found = []
    for line in _read_lines(workdir / METRICS, notes):
        numbers = {name: number for name, value in line.items() if (number := _number(value)) is not None}
        if math.isfinite(numbers.get("step", math.nan)):
            found.append(numbers)
    return found


def step_of(line: object) -> int:
    """Returns the step of a line of `metrics.jsonl`, -1 for anything else."""
    step = line.get("step") if isinstance(line, Mapping) else None
    return step if isinstance(step, int) else -1


def read_scores(workdir: Path, notes: list[str] | None = None) -> dict[str, Any]:
    """Returns the entries of `scores.json` by split."""
    found, sound = _read_object(workdir / SCORES, notes), {}
    for split, entry in found.items():
        if said := schema.problem(entry, schemas.Scores):
            _leave_out(f"the entry {split} of {SCORES} ({said})", notes)
        else:
            sound[split] = entry
    return sound


def write_scores(workdir: Path, scores: Mapping[str, Any]) -> None:
    """Writes `scores.json`.

    Raises:
      ValueError: a score is not finite.
    """
    write_text(workdir / SCORES, json.dumps(scores, indent=2, allow_nan=False) + "\n")


def read_samples(workdir: Path, notes: list[str] | None = None) -> list[dict[str, Any]]:
    """Returns the rows of `samples.jsonl`; the split scored last comes first."""
    rows = _read_lines(workdir / SAMPLES, notes)
    sound = [row for row in rows if not schema.problem(row, schemas.Sample)]
    if len(sound) < len(rows):
        _leave_out(f"{_lines(len(rows) - len(sound))} of {SAMPLES} that are not samples", notes)
    return sound


def write_samples(workdir: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(workdir / SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_inspection(workdir: Path, notes: list[str] | None = None) -> dict[str, Any]:
    """Returns `inspection.json`."""
    found = _read_object(workdir / INSPECTION, notes)
    if found and (said := schema.problem(found, schemas.Inspection)):
        _leave_out(f"{INSPECTION} ({said})", notes)
        return {}
    return found


def write_inspection(workdir: Path, record: Mapping[str, Any]) -> None:
    write_text(workdir / INSPECTION, json.dumps(record) + "\n")


def read_study(workdir: Path) -> list[dict[str, Any]]:
    """Returns the questions and answers about a document that were written so far."""
    return [row for row in _read_lines(workdir / QUESTIONS) if isinstance(row.get("number"), int)]


def write_study(workdir: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(workdir / QUESTIONS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_study_splits(workdir: Path, splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> Path:
    """Writes the questions and answers of each split, and returns the folder, which a task reads."""
    for split, rows in splits.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(workdir / STUDY / f"{split}.jsonl", text)
    return workdir / STUDY


def read_distillation(workdir: Path) -> dict[str, Any]:
    """Returns `distillation.json`: the document, and how near its prefixes come to it."""
    return _read_object(workdir / DISTILLATION)


def write_distillation(workdir: Path, record: Mapping[str, Any]) -> None:
    write_text(workdir / DISTILLATION, json.dumps(record, indent=2) + "\n")


def read_about_prefix(workdir: Path, notes: list[str] | None = None) -> dict[str, Any]:
    """Returns the JSON of the prefix in `tuned/`, unchecked, for display."""
    return _read_object(prefix_files(workdir)[0], notes)


def prefix_files(workdir: Path) -> tuple[Path, Path]:
    """Returns the paths of a prefix in `tuned/`: its JSON and its tensors."""
    return workdir / TUNED / "prefix.json", workdir / TUNED / "prefix.safetensors"


def write_report(workdir: Path, page: str) -> Path:
    """Writes `report.html` of a run or a sweep, and returns its path."""
    write_text(workdir / REPORT, page)
    return workdir / REPORT


def read_sweep(folder: Path) -> dict[str, Any]:
    """Returns `sweep.json`; nothing where there is none.

    Raises:
      UserError: the file is damaged.
    """
    path, fix = folder / SWEEP, "restore or delete it: the runs beside it stay"
    try:
        found = from_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {fix}") from None
    schema.checked(found, schemas.Sweep, path, fix)
    return found


def write_sweep(folder: Path, record: Mapping[str, Any]) -> None:
    write_text(folder / SWEEP, json.dumps(record, indent=1) + "\n")


def _number(value: object) -> float | None:
    """Returns a scalar of `metrics.jsonl`; non-finite ones are written as `null` or as strings."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _read_lines(path: Path, notes: list[str] | None = None) -> list[dict[str, Any]]:
    """Returns the objects of a JSON Lines file."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    values = [_object(line) for line in lines if line.strip()]
    broken = sum(value is None for value in values)
    if broken:
        _leave_out(f"{_lines(broken)} of {path.name} that could not be read", notes)
    return [value for value in values if value is not None]


def _read_object(path: Path, notes: list[str] | None = None) -> dict[str, Any]:
    value = _object(path.read_bytes()) if path.is_file() else {}
    if value is None:
        _leave_out(f"{path.name}, which could not be read", notes)
    return value or {}


def _leave_out(what: str, notes: list[str] | None) -> None:
    if notes is not None:
        notes.append(one_line(f"Left out {what}."))


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def _object(content: bytes) -> dict[str, Any] | None:
    """Returns a JSON object; None for anything else."""
    try:
        value = from_json(content.decode("utf-8"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
