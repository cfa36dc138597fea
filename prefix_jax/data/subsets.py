"""Which of a split's records are used: of some categories, so many drawn at random or evenly spaced."""

from collections.abc import Sequence

import numpy as np

from prefix_jax.data.records import Record
from prefix_jax.errors import UserError, did_you_mean


def of_categories(records: Sequence[Record], wanted: str, option: str = "data.categories") -> list[Record]:
    """Returns the records of the categories named, comma-separated; with a minus before, of all the others.

    Raises:
      UserError: no record has one of them; `option` chooses them.
    """
    names = [name.strip() for name in wanted.removeprefix("-").split(",") if name.strip()]
    known = sorted({record.category for record in records if record.category})
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) if known else "; these records have no category"
            raise UserError(f'--config.{option} has "{name}", which is the category of no record{hint}')
    if not names:
        return list(records)
    return [record for record in records if (record.category in names) != wanted.startswith("-")]


def random_subset(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Returns `count` records in their own order, drawn by the seed; a smaller draw is part of a larger one."""
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    return [records[place] for place in sorted(chosen)]


def evenly_spaced(records: Sequence[Record], count: int) -> list[Record]:
    """Returns `count` records, from the first on each k-th, k the largest whole number that gives so many; all where
    there are no more.
    """
    return list(records[:: max(1, len(records) // count)][:count])
