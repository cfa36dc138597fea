"""Attention to a prefix and its effect on next-token predictions, measured over records."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefix_jax.data.records import Record
from prefix_jax.inspection.observe import each_alone, log_probabilities, observed
from prefix_jax.models.prefix import Prefix, prefix_of
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState


class Findings(NamedTuple):
    """Measurements over the target tokens of records, teacher-forced.

    Attributes:
      prefix_share: by site, the mean share of attention to the prefix, `[layers, query heads]`; 0 in layers without
        one.
      change: mean Kullback-Leibler divergence, in nats, of the bare model's next-token distribution from the tuned
        model's.
      change_by_place: the same by target position, up to the last position that half of the records reach.
      changed_words: share of target positions whose top-1 prediction changes.
      tokens: number of target positions.
    """

    prefix_share: dict[str, np.ndarray]
    change: float
    change_by_place: np.ndarray
    changed_words: float
    tokens: int


def measure(opened: Session, kept: TunedState, records: Sequence[Record]) -> Findings:
    """Measures a tuned state on records; see `Findings`.

    Raises:
      UserError: there are no records.
    """
    shares: dict[str, list[np.ndarray]] = {}
    changes, others = [], []
    batches = zip(each_alone(opened, kept, records), each_alone(opened, None, records), strict=True)
    for tuned, bare in batches:
        for site, weights in observed(opened, kept, tuned).items() if kept.prefix is not None else ():
            if slots := _slots(kept.prefix, site):
                shares.setdefault(site, []).append(weights[..., :slots].sum(-1).mean(-1))
        with_it, without = log_probabilities(opened, kept, tuned), log_probabilities(opened, None, bare)
        changes.append(divergence(with_it, without))
        others.append(with_it.argmax(-1) != without.argmax(-1))
    every = np.concatenate(changes)
    share = {site: np.mean(parts, axis=0) for site, parts in shares.items()}
    return Findings(share, float(every.mean()), _by_place(changes), float(np.concatenate(others).mean()), len(every))


def divergence(with_it: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Returns the divergence of the second distributions from the first, over the last axis; both are log
    probabilities.
    """
    return (np.exp(with_it) * (with_it - without)).sum(-1)


def _by_place(changes: Sequence[np.ndarray]) -> np.ndarray:
    reached = [sum(len(change) > place for change in changes) for place in range(max(map(len, changes)))]
    places = sum(2 * count >= len(changes) for count in reached)
    return np.array([np.mean([c[place] for c in changes if len(c) > place]) for place in range(places)])


def _slots(prefix: Prefix | None, site: str) -> int:
    found = prefix_of(prefix, site)
    return 0 if found is None else found.key.shape[-2]
