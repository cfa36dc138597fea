"""Two views of a task's split: one record per text (`pairs`), or one per input (`inputs`)."""

from pathlib import Path

from prefix_jax.data import data_set, rows
from prefix_jax.data.data_set import DEFAULT_COLUMNS, Columns
from prefix_jax.data.files import Row
from prefix_jax.data.reading import Reading
from prefix_jax.data.records import Record, group, normal_text
from prefix_jax.tasks.labels import named_or_found, with_labels
from prefix_jax.tasks.registry import find


def read(task: str, split: str, path: str = "", columns: Columns = DEFAULT_COLUMNS) -> Reading:
    """Returns the records of a split, one per text, with their origin. See `data_set.read`.

    Raises:
      UserError: unknown task or split, missing data, or a row with an empty or missing field.
    """
    found = find(task)
    reading = data_set.read(found.data, found.name, split, path, columns)
    if found.labels != ():
        return reading
    return with_labels(reading, shared_choices(task, path, columns, reading if split == "train" else None))


def shared_choices(
    task: str, path: str = "", columns: Columns = DEFAULT_COLUMNS, trained: Reading | None = None
) -> tuple[str, ...]:
    """Returns the choices that all inputs of a task share, its labels; none where it has no labels.

    Args:
      trained: the training data, where they have been read.

    Raises:
      UserError: the labels are not named, and the training data cannot be read or have a single label.
    """
    found = find(task)
    if found.labels != ():
        return found.labels or ()

    def records() -> list[Record]:
        return (trained or data_set.read(found.data, found.name, "train", path, columns)).records

    return tuple(normal_text(label, columns.unicode) for label in named_or_found(columns.labels, records))


def prompt(task: str, row: Row, columns: Columns = DEFAULT_COLUMNS) -> tuple[str, tuple[str, ...]]:
    """Returns the source of a row that need not have an answer, in the form of the reader, and the row's own choices.

    Raises:
      UserError: the row lacks a column of the task.
    """
    found = find(task)
    source, choices = (found.data.prompt or rows.prompt)(row, columns)
    return found.as_read(source), choices


def files(task: str, split: str, path: str = "", columns: Columns = DEFAULT_COLUMNS) -> tuple[Path, ...]:
    """Returns the files of which `read` makes a split; none where the set is embedded or of the hub.

    Raises:
      UserError: as `check`.
    """
    found = find(task)
    of = "train" if columns.validation_fraction and split == "validation" else split
    where = data_set.find(found.data, found.name, of, path)
    return () if isinstance(where, str) else where.files


def check(task: str, split: str, path: str = "") -> None:
    """Raises UserError where a task or split is unknown, or its files are missing; what the hub has is not asked."""
    found = find(task)
    data_set.find(found.data, found.name, split, path)


def pairs(task: str, split: str, path: str = "", columns: Columns = DEFAULT_COLUMNS, limit: int = 0) -> list[Record]:
    """Returns a split with one record per (source, target) text, in file order, for training and the loss.

    Args:
      task: a name in `TASKS`, or a module path.
      split: train, validation or test.
      path: location of the files (see `data_set.read`).
      columns: columns of a user's table, or the languages of a translation.
      limit: number of records used, from the start; 0: all.

    Raises:
      UserError: as for `read`.
    """
    records = read(task, split, path, columns).records
    return records[:limit] if limit else records


def inputs(task: str, split: str, path: str = "", columns: Columns = DEFAULT_COLUMNS, limit: int = 0) -> list[Record]:
    """Returns a split with one record per input and all its references, for decoding and scores. See `pairs`."""
    records = group(read(task, split, path, columns).records)
    return records[:limit] if limit else records
