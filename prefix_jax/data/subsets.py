"""Selection of records from a split: by category, random, or evenly spaced."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from prefix_jax.data.records import Record
from prefix_jax.errors import UserError, did_you_mean

T = TypeVar("T")


def of_categories(records: Sequence[Record], wanted: str, option: str = "data.categories") -> list[Record]:
    """Returns the records of comma-separated categories; with a leading minus, of all other categories.

    Raises:
      UserError: a category occurs in no record; `option` is the option that names the categories.
    """
    names = [name.strip() for name in wanted.removeprefix("-").split(",") if name.strip()]
    known = sorted({record.category for record in records if record.category})
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) if known else "; these records have no category"
            raise UserError(f'--config.{option} has "{name}", which is not the category of any record{hint}')
    if not names:
        return list(records)
    return [record for record in records if (record.category in names) != wanted.startswith("-")]


def random_subset(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Returns a random subset of `count` records in original order; a smaller one is a subset of a larger one."""
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    return [records[place] for place in sorted(chosen)]


def evenly_spaced(records: Sequence[T], count: int) -> list[T]:
    """Returns every k-th record from the first, with the largest k that yields `count`; all if there are fewer."""
    return list(records[:: max(1, len(records) // count)][:count])
