"""A task's scorers: tried before there is anything to score, then run on texts."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefix_jax import disk, metrics
from prefix_jax.config import check_evaluation
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.metrics import Measured
from prefix_jax.options import Config, language_code

# Bytes of a text that is yet to be decoded, when room on the disk is tried.
_BYTES_OF_A_TEXT = 400
# How scores were taken where `scores.json` does not say.
DEFAULT = {"language": "en", "bleu_tokenizer": ""}


def task_of(config: Config) -> str:
    """Returns the name of the task whose scores a configuration's data get.

    Raises:
      UserError: there are no scores for it.
    """
    task = "text" if config.data.task == "table" else config.data.task
    if task not in metrics.TASKS:
        raise UserError(f'there are no scores for task "{task}"; --config.data.task=text scores any texts')
    return task


def language_of(config: Config) -> str:
    """Returns the language of a configuration's targets; of a translation into another language, that of its column."""
    data = config.data
    if data.task == "translation" and data.language == "en" and data.target_column != "target":
        try:
            return language_code(data.target_column)
        except UserError:  # a column of another name
            return "en"
    return language_code(data.language)


def how(config: Config) -> dict[str, Any]:
    """Returns what scores depend on beside the texts."""
    return {"language": language_of(config), "bleu_tokenizer": config.evaluation.bleu_tokenizer}


def try_out(config: Config) -> None:
    """Runs the scorers that a configuration needs on a text of their own, once a process.

    Raises:
      UserError: one of them cannot be had or fails here, or an option of theirs is wrong.
    """
    check_evaluation(config)
    metrics.try_out(task_of(config), **how(config))


def try_records(config: Config, records: Sequence[Record]) -> None:
    """Checks that records can be scored, and says what there is to say of their language.

    Raises:
      UserError: one of them cannot be.
    """
    rows = _rows(records, [""] * len(records))
    metrics.check(task_of(config), rows)
    for note in metrics.notes(rows, **how(config)):
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
    return metrics.measure(task_of(config), _rows(records, hypotheses), **how(config))


def _rows(records: Sequence[Record], hypotheses: Sequence[str]) -> list[Any]:
    return [
        {"hypothesis": text, "references": list(record.references), "category": record.category}
        for record, text in zip(records, hypotheses, strict=True)
    ]
