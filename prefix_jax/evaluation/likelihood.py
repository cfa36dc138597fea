"""Log-likelihoods of plain text: for each record the loss of its whole text."""

import math
from collections.abc import Sequence

import numpy as np

from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.evaluation.forgetting import losses
from prefix_jax.metrics.perplexity import spelled
from prefix_jax.models import finite
from prefix_jax.parallel import distributed
from prefix_jax.training.plain_text import window_length, windows_of
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState


def of_texts(
    opened: Session, kept: TunedState | None, records: Sequence[Record], label: str = "", progress: bool = True
) -> list[str]:
    """Returns for each record its loss in words, as the metrics of plain text read it; `kept=None` is the bare model.

    Both models read the same windows.

    Raises:
      UserError: a text has too few tokens, or the model's outputs are not finite.
    """
    kept = kept or TunedState()
    cut, owners = windows_of(opened, records)
    if short := set(range(len(records))) - set(owners):
        raise UserError(f"record {records[min(short)].id} has too few tokens to predict any; give a longer text")
    # Short texts need no rows of the longest window.
    halves = opened.model_config.is_encoder_decoder
    longest = max(2 * max(map(len, one)) if halves else len(one.given) + len(one.predicted) for one in cut)
    width = min(window_length(opened), 2 ** math.ceil(math.log2(max(longest, 16))))
    variables, shown = kept.onto(opened.base), progress and distributed.is_primary()
    with Progress(len(cut), start=0, label=label) as bar:
        done = (lambda count: bar.update(count, {})) if shown else None
        found = losses(opened.model, variables, kept, cut, width, done)
    if not np.isfinite(found).all():
        raise UserError(f"the model's outputs for plain text are not finite: {finite.blame(opened.base, kept)}")
    sums = np.bincount(owners, found, len(records))
    counts = np.bincount(owners, [len(one.predicted) for one in cut], len(records))
    return [
        spelled(float(total), int(count), len(record.target.encode()))
        for total, count, record in zip(sums, counts, records, strict=True)
    ]
