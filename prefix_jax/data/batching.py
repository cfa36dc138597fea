"""Packed batches with static shapes, a pure function of (data, configuration, step)."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prefix_jax.data import packing
from prefix_jax.data.packing import EpochPlan, Plan, Shape, choose_shape, make_plan
from prefix_jax.data.tokens import Ragged, SoftTargets, TokenisedSet
from prefix_jax.dependencies import PackingPlan
from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig

Array = Any  # numpy or jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Packed batch. Segment ids are 0 on padding and 1, 2, ... along a row; positions begin at 0 in each segment.

    A decoder-only segment is the source's tokens and the target's but the last; an encoder-decoder's is the decoder
    start and the target's but the last, beside its source in the same row of the encoder with the same segment id.
    `target_positions` are the columns whose hidden state predicts `targets`; `weights` are 1 there. On padding they and
    `targets` are 0, and `target_positions` is the row's last column, which never holds a source.
    `soft_ids` and `soft_log_probs` are a teacher's likeliest tokens at the place of each target, if there is a teacher.
    `alone`: in this run each row holds one record at most, on which a compiled step may rely.
    """

    tokens: Array  # int32 [B, T]
    positions: Array  # int32 [B, T]
    segment_ids: Array  # int32 [B, T]
    target_positions: Array  # int32 [B, M]
    targets: Array  # int32 [B, M]
    weights: Array  # float32 [B, M]
    encoder_tokens: Array | None = None  # int32 [B, S]
    encoder_positions: Array | None = None
    encoder_segment_ids: Array | None = None
    soft_ids: Array | None = None  # int32 [B, M, k]
    soft_log_probs: Array | None = None  # float32 [B, M, k]
    alone: bool = field(default=False, metadata=dict(static=True))


@dataclass(frozen=True)
class Layout:
    """Row layout of a model: one sequence, or an encoder's and a decoder's, which starts with `decoder_start`."""

    encoder_decoder: bool
    decoder_start: int = 0
    pad: int = 0

    @classmethod
    def of(cls, model_config: ModelConfig) -> "Layout":
        return cls(model_config.is_encoder_decoder, model_config.decoder_start, model_config.pad_id)


class PackedBatches:
    """Batches of a run: `batch_at(step)` is deterministic and equal in every process for the same arguments.

    Attributes:
      shape: rows per step and capacities of a row. First: columns (encoder-decoder: the encoder's, S);
        second: target tokens, M (encoder-decoder: the decoder's columns, T = M).
      steps_per_epoch: number of steps, the same in every epoch.
    """

    def __init__(
        self,
        data: TokenisedSet,
        layout: Layout,
        batch: int,
        seed: int = 0,
        row_length: int = 0,
        rows_multiple: int = 1,
        shuffle: bool = True,
        shape: Shape | None = None,
        cache: Path | None = None,
    ):
        """Args:
          batch: records per step.
          seed: shuffling seed, combined with the epoch; without `shuffle`, records keep their order.
          row_length: first capacity; 0: chosen from the data.
          rows_multiple: divisor of the number of rows: accumulation parts times mesh parts.
          shape: shape of an earlier run, to reproduce its batches; None: chosen from the data.
          cache: folder of cached plans, which take 20 microseconds per record to compute; None: no cache.

        Raises:
          UserError: there are no records, or one does not fit `row_length` or `shape`.
        """
        if not len(data):
            raise UserError("There are no records to train on or to measure; check --config.data.path and data.limit.")
        if batch < 1 or rows_multiple < 1:
            raise UserError(f"A step needs at least one record and one part, not {batch} and {rows_multiple}.")
        self.data, self.layout = data, layout
        self.sizes = _sizes(data, layout)
        longest = int(self.sizes[:, 0].max())
        if row_length and longest > row_length:
            raise UserError(
                f"A record of {longest} tokens does not fit rows of {row_length}; set --config.data.row_length to at "
                f"least {longest}, or to 0 to have it chosen."
            )
        if shape is not None and (self.sizes.max(axis=0) > (shape.first, shape.second)).any():
            raise UserError(
                f"A record of {' and '.join(map(str, self.sizes.max(axis=0)))} tokens does not fit the rows of "
                f"{shape.first} and {shape.second} with which this run began; choose another --workdir."
            )

        def plan() -> Plan:
            chosen = shape or choose_shape(self.sizes, batch, rows_multiple, row_length)
            return make_plan(self.sizes, chosen, batch, seed, shuffle)

        given = None if shape is None else astuple(shape)
        depends = PackingPlan(
            packing.VERSION, np.__version__, self.sizes, batch, seed, shuffle, row_length, rows_multiple, given
        )
        self.plan = packing.kept(cache, depends, plan)
        self.shape = self.plan.shape
        self.steps_per_epoch = self.plan.steps
        self._sequences = data.targets if layout.encoder_decoder else _joined(data)
        self._scored, self._places = data.scored()
        self._epoch: tuple[int, EpochPlan] | None = None
        # For the whole run, which would otherwise compile two programs: no two records fit a row.
        two = np.sort(self.sizes, axis=0)[:2].sum(axis=0)
        self._alone = len(data) < 2 or bool((two > (self.shape.first, self.shape.second)).any())

    def records_at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the records of a step and their rows, in layout order."""
        number, within = divmod(step, self.steps_per_epoch)
        cached = self._epoch  # read once: a thread may build batches ahead
        if cached is None or cached[0] != number:
            cached = self._epoch = number, self.plan.epoch(number)
        plan = cached[1]
        part = slice(plan.starts[within], plan.starts[within + 1])
        return plan.records[part], plan.rows[part]

    def batch_at(self, step: int, own: np.ndarray | None = None) -> Batch:
        """Returns the batch of a step, counted from 0 through all epochs, as numpy arrays of static shapes.

        With `own`, only the marked rows are filled; the others are empty.
        """
        records, rows = self.records_at(step)
        if own is not None:
            records, rows = records[own[rows]], rows[own[rows]]
        filled = self._encoder_decoder if self.layout.encoder_decoder else self._decoder_only
        return replace(filled(records, rows), alone=self._alone)

    def target_counts(self, records: np.ndarray) -> np.ndarray:
        """Returns how many targets of records have a loss."""
        return self.sizes[records, 1]

    def epoch(self) -> Iterator[Batch]:
        """Yields the batches of epoch 0: every record once."""
        return (self.batch_at(step) for step in range(self.steps_per_epoch))

    def statistics(self) -> dict[str, float]:
        """Returns records per step and the filled shares of columns and of target positions."""
        rows = self.steps_per_epoch * self.shape.rows
        first, second = self.sizes.sum(axis=0) / (rows * np.array([self.shape.first, self.shape.second]))
        both = self.sizes.sum() / (rows * (self.shape.first + self.shape.second))
        return {
            "records_per_step": len(self.data) / self.steps_per_epoch,
            "fill": float(both if self.layout.encoder_decoder else first),
            "fill_source" if self.layout.encoder_decoder else "fill_columns": float(first),
            "fill_targets": float(second),
        }

    def _decoder_only(self, records: np.ndarray, rows: np.ndarray) -> Batch:
        shape, data = self.shape, self.data
        lengths, targets = self.sizes[records, 0], self.sizes[records, 1]
        starts = _starts(rows, lengths)
        row, column, segment, position, flat = _spread(self._sequences, records, rows, lengths, starts)
        tokens, positions, segment_ids = _fill(
            shape.rows, shape.first, self.layout.pad, row, column, flat, position, segment
        )
        # The hidden state of the source's last token predicts the target's first.
        row, column, _, _, flat = _spread(self._scored, records, rows, targets, _starts(rows, targets))
        places = self._places[_flat(self._scored.offsets[records], targets)]
        first = np.repeat(starts + data.sources.lengths[records] - 1, targets)
        batch = Batch(tokens, positions, segment_ids, *_targets(shape, row, column, first + places, flat))
        if data.soft is None:
            return batch
        soft_ids, soft_log_probs = self._soft(data.soft, records, targets, row, column)
        return replace(batch, soft_ids=soft_ids, soft_log_probs=soft_log_probs)

    def _soft(
        self, soft: SoftTargets, records: np.ndarray, targets: np.ndarray, row: np.ndarray, column: np.ndarray
    ) -> SoftTargets:
        """Returns a teacher's tokens and log probabilities [rows, targets per row, k]."""
        shape, flat = (self.shape.rows, self.shape.second), _flat(self._scored.offsets[records], targets)
        found = SoftTargets(*(np.zeros((*shape, part.shape[1]), part.dtype) for part in soft))
        for whole, part in zip(found, soft, strict=True):
            whole[row, column] = part[flat]
        return found

    def _encoder_decoder(self, records: np.ndarray, rows: np.ndarray) -> Batch:
        shape, data, pad = self.shape, self.data, self.layout.pad
        sources, targets = self.sizes[records, 0], self.sizes[records, 1]
        row, column, segment, position, flat = _spread(data.sources, records, rows, sources, _starts(rows, sources))
        encoder = _fill(shape.rows, shape.first, pad, row, column, flat, position, segment)
        row, column, segment, position, flat = _spread(data.targets, records, rows, targets, _starts(rows, targets))
        shifted = np.where(position == 0, self.layout.decoder_start, np.roll(flat, 1))
        decoder = _fill(shape.rows, shape.second, pad, row, column, shifted, position, segment)
        return Batch(*decoder, *_targets(shape, row, column, column, flat, shape.second), *encoder)


def _sizes(data: TokenisedSet, layout: Layout) -> np.ndarray:
    """Returns [N, 2]: columns and target tokens with a loss (decoder-only), or encoder and decoder columns."""
    sources, targets = data.sources.lengths, data.targets.lengths
    if layout.encoder_decoder:
        return np.stack([sources, targets], axis=1)
    return np.stack([sources + targets - 1, data.scored()[0].lengths], axis=1)


def _joined(data: TokenisedSet) -> Ragged:
    """Returns each record's source tokens and its target tokens except the last."""
    sources, targets = data.sources.lengths, data.targets.lengths
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sources + targets - 1)])
    ids = np.empty(offsets[-1], np.int32)
    every = np.arange(len(data))
    ids[_flat(offsets[:-1], sources)] = data.sources.ids[_flat(data.sources.offsets[every], sources)]
    ids[_flat(offsets[:-1] + sources, targets - 1)] = data.targets.ids[_flat(data.targets.offsets[every], targets - 1)]
    return Ragged(ids, offsets)


def _flat(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the concatenation of `arange(start, start + length)`."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _starts(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the column at which each record begins in its row; `rows` ascends."""
    before = np.cumsum(lengths) - lengths
    first = np.searchsorted(rows, rows)  # the row's first record
    return before - before[first]


def _spread(
    data: Ragged, records: np.ndarray, rows: np.ndarray, lengths: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the row, column, segment id, position and id of each token of the records."""
    position = _flat(np.zeros(len(records), np.int64), lengths)
    segment = np.arange(len(rows)) - np.searchsorted(rows, rows) + 1
    repeat = np.repeat(np.stack([rows, starts, segment]), lengths, axis=1)
    return repeat[0], repeat[1] + position, repeat[2], position, data.ids[_flat(data.offsets[records], lengths)]


def _fill(
    rows: int, length: int, pad: int, row: np.ndarray, column: np.ndarray, *values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens, positions and segment ids [rows, length]."""
    tokens, position, segment = values
    out = np.zeros((3, rows, length), np.int32)
    out[0] = pad
    out[:, row, column] = tokens, position, segment
    return out[0], out[1], out[2]


def _targets(
    shape: Shape, row: np.ndarray, column: np.ndarray, positions: np.ndarray, ids: np.ndarray, columns: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns target positions, targets and weights [rows, targets per row]; `columns`: decoder columns, 0: the first
    capacity.
    """
    out = np.zeros((2, shape.rows, shape.second), np.int32)
    out[0] = (columns or shape.first) - 1
    weights = np.zeros((shape.rows, shape.second), np.float32)
    out[:, row, column] = positions, ids
    weights[row, column] = 1.0
    return out[0], out[1], weights


def split(batch: Batch, parts: int) -> Batch:
    """Adds a leading axis of accumulation parts, [A, B/A, ...]; a batch of one part is unchanged."""
    if parts == 1:
        return batch
    rows = batch.tokens.shape[0]
    if rows % parts:
        raise UserError(
            f"A step of {rows} rows cannot be divided in {parts}; build the batches with rows_multiple={parts}."
        )
    return jax.tree.map(lambda leaf: leaf.reshape(parts, rows // parts, *leaf.shape[1:]), batch)
