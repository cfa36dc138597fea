"""A task's scorers: checked before anything is decoded, then run on texts."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prefix_jax import disk, tasks
from prefix_jax.config import check_evaluation
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.metrics.metric import kind_of
from prefix_jax.metrics.perplexity import alone
from prefix_jax.options import Config, language_code
from prefix_jax.tasks import Measured

# Assumed bytes per text that is still to be decoded, for the check of disk space.
_BYTES_OF_A_TEXT = 400
# Scoring options assumed if `scores.json` does not record them.
DEFAULT = {"language": "en", "bleu_tokenizer": ""}


def language_of(config: Config) -> str:
    """Returns the language of a configuration's targets; for a translation, that of the target column."""
    data = config.data
    if tasks.find(data.task).columns_are_languages and data.language == "en" and data.target_column != "target":
        try:
            return language_code(data.target_column)
        except UserError:  # the column is not named after a language
            return "en"
    return language_code(data.language)


def how(config: Config) -> dict[str, Any]:
    """Returns what scores depend on beside the texts."""
    chosen = config.evaluation.metrics
    of_texts = {"language": language_of(config), "bleu_tokenizer": config.evaluation.bleu_tokenizer}
    return of_texts | ({"metrics": chosen} if chosen else {})


def about_metrics(config: Config) -> dict[str, dict[str, int | bool | float]]:
    """Returns the decimals and direction of metrics by name; nothing for a built-in task whose outputs are texts."""
    known = tasks.TASKS.get(tasks.current_name(config.data.task))
    if not config.evaluation.metrics and known is not None and not (known.plain_text or known.chat):
        return {}
    return {metric.name: metric.about() for metric in tasks.metrics_of(config.data.task, config.evaluation.metrics)}


def lower_is_better(config: Config, names: Iterable[str]) -> set[str]:
    """Returns those of the scores' names whose metric is better the lower it is."""
    wanted = tasks.metrics_of(config.data.task, config.evaluation.metrics)
    higher = {metric.name: metric.higher_is_better for metric in wanted}
    return {name for name in names if not higher.get(kind_of(name, higher), True)}


def try_out(config: Config) -> None:
    """Runs a configuration's scorers on a sample text, once per process.

    Raises:
      UserError: a scorer is unavailable or fails, or one of its options is invalid.
    """
    check_evaluation(config)
    tasks.try_out(config.data.task, **how(config))


def try_records(config: Config, records: Sequence[Record]) -> None:
    """Checks that records can be scored, and prints remarks about their language.

    Raises:
      UserError: a record cannot be scored.
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


def by_likelihood_alone(config: Config) -> bool:
    """Returns whether a configuration's metrics need no generated texts."""
    return alone(tasks.metrics_of(config.data.task, config.evaluation.metrics))


def score(
    config: Config, records: Sequence[Record], hypotheses: Sequence[str], likelihoods: Sequence[str] = ()
) -> Measured:
    """Returns the scores of a text for each record; `likelihoods` are those of its references, where texts are not."""
    return tasks.measure(config.data.task, _rows(records, hypotheses, likelihoods), **how(config))


def _rows(records: Sequence[Record], hypotheses: Sequence[str], likelihoods: Sequence[str] = ()) -> list[Any]:
    return [
        {"hypothesis": text, "references": list(record.references), "category": record.category}
        | ({"choices": list(record.choices)} if record.choices else {})
        | ({"likelihood": likelihood} if likelihood else {})
        for record, text, likelihood in zip(records, hypotheses, likelihoods or [""] * len(records), strict=True)
    ]
