"""The scores of a task: its official metrics, or those that a configuration chooses."""

import dataclasses
import functools
from collections.abc import Sequence

from prefix_jax.metrics import bleu, coco
from prefix_jax.metrics.choosing import chosen
from prefix_jax.metrics.languages import language_of
from prefix_jax.metrics.metric import How, Measured, Metric, Scores
from prefix_jax.metrics.metric import measure as measured
from prefix_jax.metrics.rows import Row, check_rows
from prefix_jax.tasks.registry import find

_PROBE = "The Eagle is a cheap coffee shop by the river."


def metrics_of(task: str, names: str = "") -> tuple[Metric, ...]:
    """Returns the metrics of a task; `names` chooses others (see `metrics.choosing.chosen`).

    Raises:
      UserError: an unknown task or metric.
    """
    return chosen(names, find(task).metrics)


def score(
    task: str, rows: Sequence[Row], java: bool = True, language: str = "en", bleu_tokenizer: str = "", metrics: str = ""
) -> Scores:
    """Returns the scores of a task, without those that the references give no meaning. See `measure`."""
    return measure(task, rows, java, language, bleu_tokenizer, metrics).scores


def measure(
    task: str, rows: Sequence[Row], java: bool = True, language: str = "en", bleu_tokenizer: str = "", metrics: str = ""
) -> Measured:
    """Returns the scores of a task, and what there is to know of them.

    Args:
      task: a name in `TASKS`, or a module path.
      rows: hypotheses with their references; for some tasks also the category.
      java: whether to take the scores that need Java (METEOR, and E2E's ROUGE_L and CIDEr).
      language: of the references, as an ISO code.
      bleu_tokenizer: sacrebleu's, for the tasks that have none of their own; empty: by the language.
      metrics: comma-separated metrics in place of the task's.

    Raises:
      UserError: an unknown task, metric, language or tokenizer, rows that cannot be scored, or `java` where there is
        no Java.
    """
    check_scored(task, rows)
    wanted = metrics_of(task, metrics)
    java = java and any(metric.java for metric in wanted)
    how = How(java, language_of(language, bleu_tokenizer, [text for row in rows for text in row["references"]]))
    if java:
        coco.require()
    return dataclasses.replace(measured(wanted, rows, how), notes=how.language.notes)


def check_scored(task: str, rows: Sequence[Row]) -> None:
    """Raises UserError if the task is unknown, or if rows cannot be scored whatever their hypotheses are."""
    found = find(task)
    check_rows(rows)
    for number, row in enumerate(rows, start=1):
        found.check_row(row, number)


def notes(rows: Sequence[Row], language: str = "en", bleu_tokenizer: str = "") -> tuple[str, ...]:
    """Returns what there is to say of the references' language, a sentence each."""
    return language_of(language, bleu_tokenizer, [text for row in rows for text in row["references"]]).notes


@functools.cache
def try_out(task: str, java: bool = True, language: str = "en", bleu_tokenizer: str = "", metrics: str = "") -> None:
    """Scores a row, so that what a task's scorers lack is found before there is much to score.

    Raises:
      UserError: as `measure`.
    """
    row: Row = {"hypothesis": _PROBE, "references": [_PROBE], "category": find(task).category}
    check_scored(task, [row])
    wanted, known = metrics_of(task, metrics), language_of(language, bleu_tokenizer, [])
    bleu.tokenizer(known.bleu_tokenizer)
    java = java and any(metric.java for metric in wanted)
    if java:
        coco.require()
    measured(wanted, [row], How(java, known))
