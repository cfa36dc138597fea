"""Log-likelihoods: of plain text, for each record the loss of its whole text; of a conversation, that of all its
assistant turns.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np

from prefix_jax.data.batching import PackedBatches
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.evaluation.forgetting import losses, losses_of_targets
from prefix_jax.metrics.perplexity import spelled
from prefix_jax.models import finite
from prefix_jax.parallel import distributed
from prefix_jax.training import conversations
from prefix_jax.training.plain_text import window_length, windows_of
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState

# Conversations of a batch.
_CONVERSATIONS = 8


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


def of_conversations(
    opened: Session, kept: TunedState | None, records: Sequence[Record], label: str = "", progress: bool = True
) -> list[str]:
    """Returns for each conversation the loss of its assistant turns in words; `kept=None` is the bare model.

    Both models read the same tokens. A conversation of which nothing fits (see `conversations.fitting`) has no tokens.

    Raises:
      UserError: as `fitting`, or the model's outputs are not finite.
    """
    kept = kept or TunedState()
    data, _ = conversations.fitting(opened, records, "conversations")
    rows = min(len(data), _CONVERSATIONS)
    batches = PackedBatches(data.reserving(kept.reserved), opened.layout, batch=rows, shuffle=False)
    variables, shown = kept.onto(opened.base), progress and distributed.is_primary()
    (sums, counts), done = np.zeros((2, len(records)), np.float64), 0
    with Progress(len(data), start=0, label=label) as bar:
        for step in range(batches.steps_per_epoch):
            batch = jax.tree.map(np.asarray, batches.batch_at(step))
            found = distributed.fetch(losses_of_targets(opened.model, variables, kept.prefix, batch))
            places, lines = batches.records_at(step)
            owners = conversations.owners_of(data)[places]
            # The targets of a row are those of its records, in order.
            own = batches.target_counts(places)
            of_rows = [np.repeat(owners[lines == row], own[lines == row]) for row in range(batches.shape.rows)]
            np.add.at(sums, np.concatenate(of_rows), _written(found, of_rows))
            np.add.at(counts, owners, own)
            done += len(places)
            if shown:
                bar.update(done, {})
    if not np.isfinite(sums).all():
        raise UserError(f"the model's outputs for conversations are not finite: {finite.blame(opened.base, kept)}")
    return [
        spelled(float(total), int(count), len(record.target.encode()))
        for total, count, record in zip(sums, counts, records, strict=True)
    ]


def _written(found: np.ndarray, of_rows: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the losses of the targets of each row, without those of padding."""
    return np.concatenate([np.asarray(found[row, : len(own)], np.float64) for row, own in enumerate(of_rows)])
