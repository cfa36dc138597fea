"""A metric as a row, and its values for rows of outputs and references."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from prefix_jax.metrics.languages import Language
from prefix_jax.metrics.rows import Row

Scores = dict[str, float]


PERCENT = 100.0  # the largest value of what is told in percent


@dataclasses.dataclass
class Measured:
    """What the scorers of a task say of rows.

    Attributes:
      scores: those that measure something, in the order of the tables.
      signatures: of the scores that sacrebleu takes, its signatures.
      unmeasured: for each score that these references give no meaning, why.
      details: what scores leave out, in JSON's types, by name: a confusion matrix, for example.
      notes: what is to be said of the texts' language, a sentence each.
    """

    scores: Scores = dataclasses.field(default_factory=dict)
    signatures: dict[str, str] = dataclasses.field(default_factory=dict)
    unmeasured: dict[str, str] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def add(self, name: str, score: float, reason: str = "", signature: str = "") -> None:
        """Adds a score, or the reason for which it says nothing."""
        if not math.isfinite(score):
            reason = reason or "it came out as no finite number"
        if reason:
            self.unmeasured[name] = reason
            return
        self.scores[name] = score
        if signature:
            self.signatures[name] = signature


class How(NamedTuple):
    """How rows are scored: with Java or without, and as texts of which language."""

    java: bool
    language: Language


# (rows, how they are scored) -> the value, or the values of all metrics that share the function.
Function = Callable[[Sequence[Row], How], float | Measured]


PERCENT = 100.0  # the largest value of what is told in percent


@dataclasses.dataclass(frozen=True)
class Metric:
    """A row of a table of metrics.

    Attributes:
      name: its name in `scores.json` and in tables.
      function: rows, and how to score them, to a value. Metrics with one function are computed in one call of it, which
        returns a `Measured` of all of them; a name there may end in `_PART` (as in WebNLG's BLEU_seen).
      decimals: decimals that a table prints.
      higher_is_better: the direction.
      java: whether it needs Java.
      largest: the largest value, to which a report draws it; None: there is none, or it is not known.
    """

    name: str
    function: Function
    decimals: int = 2
    higher_is_better: bool = True
    java: bool = False
    largest: float | None = None

    def about(self) -> dict[str, int | bool | float]:
        """Returns its row as `scores.json` holds it."""
        row = {"decimals": self.decimals, "higher_is_better": self.higher_is_better}
        return row if self.largest is None else {**row, "largest": self.largest}


def kind_of(name: str, kinds: Mapping[str, object] | Sequence[str]) -> str:
    """Returns the metric of a score: its name, or where that is not one of `kinds`, the name without its `_PART`."""
    return name if name in kinds else name.rpartition("_")[0]


def measure(metrics: Sequence[Metric], rows: Sequence[Row], how: How) -> Measured:
    """Returns the values of metrics, in the order of the functions' first metrics."""
    found, names = Measured(), [metric.name for metric in metrics]
    for function in dict.fromkeys(metric.function for metric in metrics):
        own = [metric.name for metric in metrics if metric.function is function]
        part = function(rows, how)
        if not isinstance(part, Measured):
            found.add(own[0], float(part))
            continue
        found.details.update(part.details)
        for kept, values in ((found.scores, part.scores), (found.signatures, part.signatures),
                             (found.unmeasured, part.unmeasured)):  # fmt: skip
            kept.update({name: value for name, value in values.items() if kind_of(name, names) in own})  # pyright: ignore
    return found
