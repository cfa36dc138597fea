"""Numbers and texts that several sections of a report show."""

import math
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from prefix_jax.config import default_config
from prefix_jax.reporting.run import Run
from prefix_jax.tuning import Declaration, known


def main_scores(run: Run) -> tuple[str, Mapping[str, Any]]:
    """The split whose scores open the page: test where it was scored, else the first."""
    scored = {split: values for split, values in run.scores.items() if numbers(values.get("tuned"))}
    split = "test" if "test" in scored else next(iter(scored), "")
    return split, scored.get(split, {})


def numbers(values: object) -> dict[str, float]:
    """Returns the numeric entries of a mapping read from a file; empty if it is not a mapping."""
    if not isinstance(values, Mapping):
        return {}
    known = {str(k): v for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {name: float(value) for name, value in known.items()}


def parameter_counts(run: Run) -> dict[str, int]:
    """Returns the parameter counts that `config.json` records: trained, stored and base."""
    return {name: int(value) for name, value in numbers(run.record.get("parameters")).items() if math.isfinite(value)}


def share(counts: Mapping[str, int]) -> str | None:
    """Returns stored parameters as a percentage of the model's, such as "0.35 %"; None where they are unknown."""
    if not counts.get("base") or "stored" not in counts:
        return None
    return f"{100 * counts['stored'] / counts['base']:.2g} %"


def finite(values: Iterable[float]) -> list[float]:
    """Returns the values that are finite numbers."""
    return [value for value in values if math.isfinite(value)]


def count(value: object) -> str | None:
    """Returns a whole number with thousands separators, other values as text, None as None."""
    return f"{value:,}" if isinstance(value, int) else None if value is None else str(value)


def quoted_workdir(run: Run) -> str:
    """Returns the run directory, quoted for a shell."""
    return shlex.quote(str(run.workdir))


def methods_of(config: Mapping[str, Any]) -> dict[str, Declaration | None]:
    """Returns the methods that a configuration names, None for those of another version."""
    return known(config.get("method", default_config().method))


def method_title(config: Mapping[str, Any]) -> str:
    """Returns such as "Prefix tuning and LoRA"."""
    return " and ".join(name if found is None else found.title for name, found in methods_of(config).items())


def model_name(source: object) -> str:
    """Returns the name of a model: of a path its last part, of a hub id all of it."""
    text = str(source).rstrip("/")
    is_path = text.startswith(("/", ".", "~")) or text.count("/") > 1
    return text.rsplit("/", 1)[-1] if is_path else text
