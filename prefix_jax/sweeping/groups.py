"""Grouping of rows into programs: members differ only in traced numbers and have prefixes of similar length."""

import json
from collections.abc import Sequence

from prefix_jax.errors import UserError
from prefix_jax.options import Config, flat
from prefix_jax.sweeping.rows import Row
from prefix_jax.tuning import declared, slots

# Options that may differ between members of a program: the optimizer's numbers and the prefix's initialisation.
TRACED = (
    *(f"optimizer.{name}" for name in ("learning_rate", "warmup_steps", "final_fraction", "weight_decay")),
    *(f"optimizer.{name}" for name in ("b1", "b2", "epsilon", "clip")),
    "training.seed",
)
# Options of generation and scoring, which do not affect training.
LATER = ("decoding.", "evaluation.", "data.language")


def groups(rows: Sequence[Row], members: int) -> list[list[Row]]:
    """Divides rows into groups of at most `members` that train in one program, ordered by their first rows.

    Padding slots of shorter prefixes cost as much as real ones: within a group, the longest prefix has at most twice
    the slots of the shortest plus 32.
    """
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(shared(row.config), []).append(row)
    found = [group for same in alike.values() for group in _by_length(same, members)]
    place = {row.name: number for number, row in enumerate(rows)}
    return sorted(found, key=lambda group: min(place[row.name] for row in group))


def holding(found: Sequence[Sequence[str]], text: str) -> list[Sequence[str]]:
    """Returns the groups with a row whose name contains the text.

    Raises:
      UserError: there is none.
    """
    chosen = [group for group in found if any(text in name for name in group)]
    if not chosen:
        raise UserError(f'no row has "{text}" in its name; the first is {found[0][0]}, and --plan prints all')
    return chosen


def shared(config: Config) -> str:
    """Returns all that the members of a program have in common."""
    free = TRACED + tuple(f"{m.name}.{option}" for m in declared(config.method).values() for option in m.traced)
    options = flat(config.to_dict())
    return json.dumps({n: options[n] for n in sorted(options) if n not in free and not n.startswith(LATER)})


def _by_length(rows: Sequence[Row], members: int) -> list[list[Row]]:
    found: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: slots(row.config)):  # a stable sort: else in their own order
        length = slots(row.config)
        group = found[-1] if found else []
        if group and len(group) < members and length <= 2 * slots(group[0].config) + 32:
            group.append(row)
        else:
            found.append([row])
    return found
