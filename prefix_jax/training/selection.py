"""The records that a configuration selects: a task's split, of the categories and in the number wanted."""

import contextlib
import functools
import hashlib
import sys

from prefix_jax import tasks
from prefix_jax.config import check_reading
from prefix_jax.data import subsets, templates
from prefix_jax.data.data_set import drawn
from prefix_jax.data.in_memory import InMemory
from prefix_jax.data.reading import Reading
from prefix_jax.data.records import Record, group
from prefix_jax.options import Config
from prefix_jax.parallel import distributed


def check_data(config: Config, *splits: str, held: InMemory | None = None) -> None:
    """Checks what a run reads and how it is scored, without loading a model or asking the hub.

    Raises:
      UserError: an unknown task, split or metric, or files that are missing.
    """
    tasks.metrics_of(config.data.task, config.evaluation.metrics)
    check_reading(config)
    for split in splits:
        if config.data.validation_fraction and split == "validation":
            split = "train"
        if held is None:
            tasks.check(config.data.task, split, config.data.path)
        else:
            held.read(split)


def columns(config: Config) -> tasks.Columns:
    """Returns which columns of rows a configuration reads, and how."""
    data = config.data
    return tasks.Columns(
        data.source_column,
        data.target_column,
        config.task.labels,
        source_template=templates.parse(data.source_format, "source").text,
        target_template=templates.parse(data.target_format, "target").text,
        empty=data.empty,
        unicode=data.unicode,
        validation_fraction=data.validation_fraction,
        validation_seed=data.validation_seed,
    )


def text_pairs(config: Config, split: str, held: InMemory | None = None) -> list[Record]:
    """Returns a split with one record a text, of the categories wanted; of the training split `data.limit` records.

    Process 0 says once what was read. `held` are records in memory, in place of those that the configuration names.
    """
    return _limited(config, split, _wanted(config, split, _read(config, split, held)))


def text_inputs(config: Config, split: str, held: InMemory | None = None) -> list[Record]:
    """Returns a split with one record an input, with all its references, of the categories wanted.

    Process 0 says once what was read. `held` are records in memory, in place of those that the configuration names.
    """
    return _wanted(config, split, group(_read(config, split, held)))


def reading_of(config: Config, split: str, held: InMemory | None = None) -> tuple[Reading, list[Record]]:
    """Returns what is read of a split, without saying so, and those of its records, one a text, that are used."""
    reading = _reading(config, split, held)
    return reading, _limited(config, split, _wanted(config, split, reading.records))


def hashes(config: Config, split: str, held: InMemory | None = None) -> dict[str, str]:
    """Returns the SHA-256 of each file that a split is read from, by name; none where there are no files."""
    found: dict[str, str] = {}
    for path in tasks.files(config.data.task, split, config.data.path, columns(config)) if held is None else ():
        with open(path, "rb") as file:
            found[path.name if path.name not in found else str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _reading(config: Config, split: str, held: InMemory | None) -> Reading:
    if held is None:
        return tasks.read(config.data.task, split, config.data.path, columns(config))
    if config.data.validation_fraction and split != "test":
        return drawn(held.read("train"), split, columns(config))
    return held.read(split)


def _limited(config: Config, split: str, records: list[Record]) -> list[Record]:
    data = config.data
    if split != "train" or not data.limit:
        return records
    return records[: data.limit] if data.limit_seed < 0 else subsets.random_subset(records, data.limit, data.limit_seed)


def _read(config: Config, split: str, held: InMemory | None) -> list[Record]:
    reading = _reading(config, split, held)
    if held is not None and not (reading.drawn or reading.notes.left_out):
        return reading.records
    for line in (reading.sentence(), *(f"warning: {text}" for text in reading.notes.warnings)):
        _say_once(line)
    return reading.records


@functools.cache
def _say_once(line: str) -> None:
    if distributed.is_primary() and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # a stream that is closed
            print(line, file=sys.stderr)


def _wanted(config: Config, split: str, records: list[Record]) -> list[Record]:
    option = "test_categories" if split == "test" else "categories"
    return subsets.of_categories(records, config.data[option], f"data.{option}")
