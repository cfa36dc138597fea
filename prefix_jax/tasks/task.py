"""The row of a task."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from prefix_jax.data.data_set import DataSet
from prefix_jax.metrics.metric import Metric, kind_of
from prefix_jax.metrics.rows import Row


@dataclass(frozen=True)
class Task:
    """A task: where its data are, how they are read, and how outputs are scored.

    Attributes:
      name: its name in configurations, file names and messages.
      data: the lookup and reading of its data.
      metrics: its metrics, in the order of the tables.
      as_read: a typed source in the form of the reader; a text already in that form is unchanged.
      check_row: raises UserError where a row (numbered from 1) cannot be scored by these metrics.
      category: a category for a row that tries the scorers out.
      columns_are_languages: whether the configuration's two columns are named after languages.
      labels: the choices that all inputs share; empty: those that the configuration names, else all targets of the
        training data; None: an input has choices of its own, or none.
      plain_text: whether its records have no source and every token of their text is predicted.
      chat: whether its records are conversations, whose tokens a chat template makes.
      former_name: an earlier name, still read.
      pipeline_tag: the hub's word for what a model does, in the cards of what is shared.
    """

    name: str
    data: DataSet
    metrics: tuple[Metric, ...]
    as_read: Callable[[str], str] = str.strip
    check_row: Callable[[Row, int], object] = lambda row, number: None
    category: str | None = None
    columns_are_languages: bool = False
    labels: tuple[str, ...] | None = None
    plain_text: bool = False
    chat: bool = False
    former_name: str = ""
    pipeline_tag: str = "text-generation"

    @functools.cached_property
    def decimals(self) -> dict[str, int]:
        """For each metric the decimals that a table prints."""
        return {metric.name: metric.decimals for metric in self.metrics}

    @property
    def java(self) -> tuple[str, ...]:
        """The metrics that need Java."""
        return tuple(metric.name for metric in self.metrics if metric.java)

    def format(self, name: str, value: float | None) -> str:
        """Returns a score as a table prints it; `name` may end in a part, as in WebNLG's BLEU_seen."""
        return "-" if value is None else f"{value:.{self.decimals[kind_of(name, self.decimals)]}f}"
