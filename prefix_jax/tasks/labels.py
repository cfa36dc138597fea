"""Labels of classification: their words, and the set of all labels of a task."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from prefix_jax.data.files import ABSENT, EmptyField, Row, field_of
from prefix_jax.data.reading import Reading
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError, did_you_mean

OPTION = "--config.task.labels"


def parse(text: str) -> dict[str, str]:
    """Returns the words of labels by the values of a label column; without "=", a label is its own word.

    Raises:
      UserError: a label is empty or named twice, or only some have words of their own.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    pairs = [tuple(side.strip() for side in part.split("=", 1)) for part in parts]
    if len({len(pair) for pair in pairs}) > 1:
        raise UserError(f'{OPTION} "{text}" gives words to some labels only; write LABEL=WORD for each, or for none.')
    values, words = [pair[0] for pair in pairs], [pair[-1] for pair in pairs]
    if not all(values) or not all(words):
        raise UserError(f'{OPTION} "{text}" has an empty label; give each one a word.')
    twice = next((word for word in words if words.count(word) > 1), None) or next(
        (value for value in values if values.count(value) > 1), None
    )
    if twice is not None:
        raise UserError(f'{OPTION} "{text}" names "{twice}" twice; each label needs a word of its own.')
    return dict(zip(values, words, strict=True))


def label(row: Row, column: str, words: dict[str, str]) -> str:
    """Returns the word of a row's label, which may be text, a whole number or a boolean.

    A whole number n that is not itself among the labels stands for the n-th of them, from 0; a boolean is 0 or 1.

    Raises:
      UserError: the label is missing, of another type, or not one of `words`.
    """
    where, columns = row
    value = field_of(columns, column)
    if value is ABSENT:
        hint = did_you_mean(column, [str(name) for name in columns])
        raise UserError(f'{where} has no column "{column}" (--config.data.target_column chooses it){hint}')
    text, number = _text_and_number(value, where, column)
    if not words or text in words:
        return words.get(text, text)
    if number is not None and 0 <= number < len(words):
        return list(words.values())[number]
    if text in words.values():
        return text
    raise UserError(f'{where} has the label "{text}", which {OPTION} does not name{did_you_mean(text, list(words))}')


def _text_and_number(value: Any, where: str, column: str) -> tuple[str, int | None]:
    if isinstance(value, bool):
        return str(value).lower(), int(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int):
        return str(value), value
    if isinstance(value, float) and math.isfinite(value):
        return str(value), None
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise EmptyField(f'{where} has an empty "{column}"; fill it in or remove the row.')
    if not isinstance(value, str):
        raise UserError(f'{where} has a "{column}" that is {type(value).__name__}, not a label; correct the row.')
    text = value.strip()
    return text, int(text) if text.isascii() and text.isdigit() else None


def named_or_found(option: str, trained: Callable[[], Sequence[Record]]) -> tuple[str, ...]:
    """Returns the labels of a task.

    Args:
      option: the labels that the configuration names; empty: those of the training data.
      trained: returns the records of the training data.

    Raises:
      UserError: the training data cannot be read, or there is a single label.
    """
    words = tuple(parse(option).values())
    if not words:
        try:
            words = in_order({record.target for record in trained()})
        except UserError as error:
            reason = str(error).rstrip(".")
            raise UserError(f"{reason}; the labels come from the training data: name them with {OPTION}") from None
    if len(words) < 2:
        raise UserError(f'The only label is "{"".join(words)}"; a classification needs two: name them with {OPTION}.')
    return words


def with_labels(reading: Reading, words: tuple[str, ...]) -> Reading:
    """Returns the reading with the labels as choices of each record.

    Raises:
      UserError: a record has another label.
    """
    unknown = next((record for record in reading.records if record.target not in words), None)
    if unknown is not None:
        raise UserError(
            f'Record {unknown.id} has the label "{unknown.target}", which the training data do not have; name all '
            f"labels with {OPTION}."
        )
    return replace(reading, records=[replace(record, choices=words) for record in reading.records])


def in_order(labels: set[str]) -> tuple[str, ...]:
    """Returns labels in their order: numbers by size, other texts by the alphabet."""

    def rank(text: str) -> tuple[int, float, str]:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        return (0, number, text) if math.isfinite(number) else (1, 0.0, text)

    return tuple(sorted(labels, key=rank))
