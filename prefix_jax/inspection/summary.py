"""The inspection of a run, as stored in `inspection.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.inspection.counting import parameters_by_length, parameters_by_method
from prefix_jax.inspection.distances import distances
from prefix_jax.inspection.measure import measure
from prefix_jax.inspection.observe import Attention, attention
from prefix_jax.inspection.words import nearest_words, next_words
from prefix_jax.models.prefix import Prefix
from prefix_jax.training.plain_text import is_plain
from prefix_jax.training.selection import text_pairs
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState
from prefix_jax.workdir import write_inspection


def summary(
    opened: Session, kept: TunedState, records: Sequence[Record], against: Prefix | None = None
) -> dict[str, Any]:
    """Returns the results of `measure`; attention and next-token predictions of the shortest record; nearest tokens of
    a prompt; and the parameter counts of every method on this model.

    Args:
      against: another prefix for the same model; None: no comparison.

    Raises:
      UserError: there are no records, or the prefixes cannot be compared.
    """
    found = measure(opened, kept, records)
    shown = min(records, key=lambda record: len(record.source) + len(record.target))
    matrices = attention(opened, kept, shown.source, shown.target)
    result = {
        "records": len(records),
        "tokens": found.tokens,
        "prefix_share": {site: share.round(5).tolist() for site, share in found.prefix_share.items()},
        "change": found.change,
        "change_by_place": found.change_by_place.round(5).tolist(),
        "changed_words": found.changed_words,
        "source": shown.source,
        "target": shown.target,
        "attention": {site: _head(matrix) for site, matrix in matrices.items() if matrix.slots},
        "parameters": {
            "by_method": parameters_by_method(opened.model_config),
            "by_length": parameters_by_length(opened.model_config),
        },
        "next_words": [place._asdict() for place in next_words(opened, kept, shown.source, shown.target)],
    }
    if kept.reserved:
        result["nearest_words"] = nearest_words(opened, kept)
    if against is not None:
        result["distance"] = _compared(kept.prefix or Prefix(), against)
    return result


def write(
    workdir: Path,
    opened: Session,
    kept: TunedState,
    split: str,
    limit: int = 32,
    against: Prefix | None = None,
    name: str = "",
    command: str = "",
) -> dict[str, Any]:
    """Writes the summary of a split's first records to `inspection.json`, which the report shows, and returns it.

    Args:
      against: another run's prefix; `name` is the run's name.
      command: the command line that measures the same, for the report.

    Raises:
      UserError: see `summary`; or the file cannot be written.
    """
    if is_plain(opened.config):
        raise UserError(f"inspection needs records with a source, and task {opened.config.data.task} has plain text")
    records = text_pairs(opened.config, split, opened.held)[:limit]
    record = {"split": split, **summary(opened, kept, records, against)}
    if against is not None:
        record["against"] = name
    if command:
        record["command"] = command
    write_inspection(workdir, record)
    return record


def _head(matrix: Attention) -> Mapping[str, Any]:
    """Returns the head with the largest share of attention to the prefix."""
    share = matrix.prefix_share()
    layer, head = (int(place) for place in np.unravel_index(share.argmax(), share.shape))
    weights = matrix.weights[layer, head].round(4).tolist()
    about = {"layer": layer, "head": head, "share": float(share[layer, head]), "slots": matrix.slots}
    return {**about, "queries": matrix.queries, "keys": matrix.keys, "weights": weights}


def _compared(one: Prefix, other: Prefix) -> dict[str, Any]:
    return {
        site: {
            kind: {name: value.round(5).tolist() for name, value in distance._asdict().items()}
            for kind, distance in kinds.items()
        }
        for site, kinds in distances(one, other).items()
    }
