"""A study: a table or figure of the paper as a sweep, with the results it keeps and the README that shows them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import results
from experiments.results import Result

Labels = Callable[[Result], dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A plot of a metric along one label; `lines` is the label that tells its lines apart.

    Where `along` is no number, each setting is a dot with its deviation.
    """

    metric: str
    along: str
    lines: str = ""


@dataclass(frozen=True)
class Study:
    """What is particular to a study.

    Attributes:
      folder: of `recipe.py`, `README.md` and `results.jsonl`.
      labels: what a run's setting is called, column by column; runs of the same labels are averaged.
      scored: by scale, the options of the sweep that say which records are scored.
      metrics: those that the tables show; empty: those of `published.METRICS`.
      paper: a run's setting in the paper's tables: its scores there, and the model's name.
      figures: what is drawn.
    """

    folder: Path
    labels: Labels
    scored: Mapping[str, Sequence[str]]
    metrics: Sequence[str] = ()
    paper: Callable[[Result], Mapping[str, float]] = field(default=lambda result: {})
    figures: Sequence[Figure] = ()

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.py"

    @property
    def results(self) -> Path:
        return self.folder / results.FILE_NAME
