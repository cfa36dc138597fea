"""A task's scorers: checked before anything is decoded, then run on texts."""

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

# Assumed bytes per text that is still to be decoded, for the check of disk space.
_BYTES_OF_A_TEXT = 400
# Scoring options assumed if `scores.json` does not record them.
DEFAULT = {"language": "en", "bleu_tokenizer": ""}


def task_of(config: Config) -> str:
    """Returns the name of the task whose metrics apply to a configuration's data.

    Raises:
      UserError: it has no metrics.
    """
    task = "text" if config.data.task == "table" else config.data.task
    if task not in metrics.TASKS:
        raise UserError(f'there are no scores for task "{task}"; --config.data.task=text scores any texts')
    return task


def language_of(config: Config) -> str:
    """Returns the language of a configuration's targets; for a translation, that of the target column."""
    data = config.data
    if data.task == "translation" and data.language == "en" and data.target_column != "target":
        try:
            return language_code(data.target_column)
        except UserError:  # the column is not named after a language
            return "en"
    return language_code(data.language)


def how(config: Config) -> dict[str, Any]:
    """Returns the options that scores depend on besides the texts."""
    return {"language": language_of(config), "bleu_tokenizer": config.evaluation.bleu_tokenizer}


def try_out(config: Config) -> None:
    """Runs a configuration's scorers on a sample text, once per process.

    Raises:
      UserError: a scorer is unavailable or fails, or one of its options is invalid.
    """
    check_evaluation(config)
    metrics.try_out(task_of(config), **how(config))


def try_records(config: Config, records: Sequence[Record]) -> None:
    """Checks that records can be scored, and prints remarks about their language.

    Raises:
      UserError: a record cannot be scored.
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
    """Returns the scores of one text per record."""
    return metrics.measure(task_of(config), _rows(records, hypotheses), **how(config))


def _rows(records: Sequence[Record], hypotheses: Sequence[str]) -> list[Any]:
    return [
        {"hypothesis": text, "references": list(record.references), "category": record.category}
        for record, text in zip(records, hypotheses, strict=True)
    ]
