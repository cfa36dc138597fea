"""A task's scorers: tried before there is anything to score, then run on texts."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prefix_jax import disk, tasks
from prefix_jax.config import Config, check_evaluation, language_code
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.metrics.metric import kind_of
from prefix_jax.tasks import Measured

# Bytes of a text that is yet to be decoded, when room on the disk is tried.
_BYTES_OF_A_TEXT = 400
# How scores were taken where `scores.json` does not say.
DEFAULT = {"language": "en", "bleu_tokenizer": ""}


def language_of(config: Config) -> str:
    """Returns the language of a configuration's targets; of a translation into another language, that of its column."""
    data = config.data
    if tasks.find(data.task).columns_are_languages and data.language == "en" and data.target_column != "target":
        try:
            return language_code(data.target_column)
        except UserError:  # a column of another name
            return "en"
    return language_code(data.language)


def how(config: Config) -> dict[str, Any]:
    """Returns what scores depend on beside the texts."""
    chosen = config.evaluation.metrics
    of_texts = {"language": language_of(config), "bleu_tokenizer": config.evaluation.bleu_tokenizer}
    return of_texts | ({"metrics": chosen} if chosen else {})


def about_metrics(config: Config) -> dict[str, dict[str, int | bool]]:
    """Returns the decimals and direction of metrics that are not those of a built-in task, by name; else nothing."""
    if not config.evaluation.metrics and tasks.current_name(config.data.task) in tasks.TASKS:
        return {}
    return {metric.name: metric.about() for metric in tasks.metrics_of(config.data.task, config.evaluation.metrics)}


def lower_is_better(config: Config, names: Iterable[str]) -> set[str]:
    """Returns those of the scores' names whose metric is better the lower it is."""
    wanted = tasks.metrics_of(config.data.task, config.evaluation.metrics)
    higher = {metric.name: metric.higher_is_better for metric in wanted}
    return {name for name in names if not higher.get(kind_of(name, higher), True)}


def try_out(config: Config) -> None:
    """Runs the scorers that a configuration needs on a text of their own, once a process.

    Raises:
      UserError: one of them cannot be had or fails here, or an option of theirs is wrong.
    """
    check_evaluation(config)
    tasks.try_out(config.data.task, **how(config))


def try_records(config: Config, records: Sequence[Record]) -> None:
    """Checks that records can be scored, and says what there is to say of their language.

    Raises:
      UserError: one of them cannot be.
    """
    rows = _rows(records, [""] * len(records))
    tasks.check_scored(config.data.task, rows)
    language = {key: value for key, value in how(config).items() if key != "metrics"}
    for note in tasks.notes(rows, **language):
        print(f"note: {note}", file=sys.stderr)


def try_disk(workdir: Path, records: Sequence[Record]) -> None:
    """Writes and deletes a file of about the size of the texts to come.

    Raises:
      UserError: it cannot be written.
    """
    size = sum(len(r.source) + sum(map(len, r.references)) + _BYTES_OF_A_TEXT for r in records)
    path = workdir / f".room-{os.getpid()}"
    disk.write_all(workdir, {path.name: b"0" * size})
    path.unlink()


def score(config: Config, records: Sequence[Record], hypotheses: Sequence[str]) -> Measured:
    """Returns the scores of a text for each record."""
    return tasks.measure(config.data.task, _rows(records, hypotheses), **how(config))


def _rows(records: Sequence[Record], hypotheses: Sequence[str]) -> list[Any]:
    return [
        {"hypothesis": text, "references": list(record.references), "category": record.category}
        for record, text in zip(records, hypotheses, strict=True)
    ]
