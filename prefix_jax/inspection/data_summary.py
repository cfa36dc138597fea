"""What the data of a configuration become before anyone trains: counts, lengths, findings, and rows as tokens."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefix_jax import tasks
from prefix_jax.data import subsets, tokens
from prefix_jax.data.batching import PackedBatches
from prefix_jax.data.reading import Reading
from prefix_jax.data.records import Record
from prefix_jax.data.tokens import TokenisedSet
from prefix_jax.errors import UserError
from prefix_jax.options import Config
from prefix_jax.training import conversations
from prefix_jax.training.conversations import is_chat
from prefix_jax.training.plain_text import is_plain, token_ids, windows_of
from prefix_jax.training.selection import reading_of
from prefix_jax.training.session import Session, open_without_weights
from prefix_jax.training.token_sets import examined, tokenised, unchecked
from prefix_jax.tuning import slots

_BINS = 12
# The kinds of a row's tokens: without a loss (of the formats, or read only), of the source's text, and with a loss.
MASKED, SOURCE, TARGET = "masked", "source", "target"
# What the two lengths of a conversation are of.
_NAMES = {"source": "conversation", "target": "conversation's answers"}


def data_summary(config: Config, rows: int = 3) -> dict[str, Any]:
    """Returns, in JSON's types, what each split of a configuration's data become; no weights are loaded.

    Args:
      rows: number of training rows to show as tokens, evenly spaced.

    Raises:
      UserError: there are no training records, or the model cannot be had.
    """
    session, chat = open_without_weights(config), is_chat(config)
    splits: dict[str, Any] = {}
    trained: list[Record] = []
    for split in tasks.SPLITS:
        try:
            reading, records = reading_of(config, split)
        except UserError as error:
            if split == "train":
                raise
            splits[split] = {"missing": str(error)}
            continue
        trained = records if split == "train" else trained
        splits[split] = _split(session, reading, records, {_text(record) for record in trained})
    shown = subsets.evenly_spaced(trained, rows) if trained and rows else []
    return {
        "task": config.data.task,
        "model": config.model.source,
        "method": config.method,
        "formats": {"chat_template": _template(session)} if chat else dataclasses.asdict(session.formats),
        "limits": dataclasses.asdict(session.limits),
        "virtual_tokens": max(slots(config), session.method.reserved),
        "splits": splits,
        "packing": _packing(session, trained),
        "rows": _rows(session, shown),
    }


def _text(record: Record) -> str:
    """Returns what a model reads of a record; of plain text, the text."""
    return record.source or record.target


def _split(session: Session, reading: Reading, records: Sequence[Record], trained: set[str]) -> dict[str, Any]:
    """Returns the entry of a split; `trained` are the sources of the training records."""
    found: dict[str, Any] = {
        "read": reading.sentence(),
        "records": len(records),
        "inputs": len({record.input_id for record in records}),
        "duplicates": len(records) - len({(record.source, record.target) for record in records}),
        "left_out": dict(reading.notes.left_out),
        "warnings": list(reading.notes.warnings),
    }
    if reading.split != "train":
        found["sources_of_training"] = len({_text(record) for record in records} & trained)
    if not records:
        return found
    if is_plain(session.config):
        return found | {"findings": {}, "target": lengths(token_ids(session, records).targets.lengths)}
    if is_chat(session.config):
        return found | _conversations(session, records, reading.split)
    data, problem = _token_ids(session, records)
    sources = data.sources.lengths if data.whole is None else data.whole
    found["findings"] = {"refused": problem} if problem else examined(session, records, data)[1]
    return found | {"source": lengths(sources), "target": lengths(data.targets.lengths)}


def _template(session: Session) -> str:
    """Returns the chat template as Jinja."""
    return str(session.tokenizer.get_chat_template(session.chat.template))


def _conversations(session: Session, records: Sequence[Record], split: str) -> dict[str, Any]:
    """Returns what conversations become: lengths of whole ones, and of what has a loss; and what is cut."""
    whole, names = conversations.token_ids(session, records), _NAMES
    try:
        findings = conversations.fitting(session, records, split)[1]
    except UserError as error:
        findings = {"refused": str(error)}
    counts = whole.sources.lengths + whole.targets.lengths
    found = {"source": lengths(counts), "target": lengths(whole.scored()[0].lengths)}
    return {"findings": findings, "names": names, "examples": len(whole), **found}


def _token_ids(session: Session, records: Sequence[Record]) -> tuple[TokenisedSet, str]:
    """Returns the records' ids, and why a run would refuse them; "" if it would not."""
    try:
        return tokenised(session, records), ""
    except UserError as error:
        return unchecked(session, records), str(error)


def lengths(counts: np.ndarray) -> dict[str, Any]:
    """Returns statistics of lengths and their histogram, as (first length, last length, count)."""
    low, high = int(counts.min()), int(counts.max())
    width = max(1, -(-(high - low + 1) // _BINS))
    first = low // width * width if width > 1 else low
    edges = range(first, high + 1, width)
    bars = np.bincount((counts - first) // width, minlength=len(edges))
    return {
        "min": low,
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "p95": float(np.percentile(counts, 95)),
        "max": high,
        "tokens": int(counts.sum()),
        "histogram": [[edge, edge + width - 1, int(bar)] for edge, bar in zip(edges, bars, strict=True)],
    }


def _packing(session: Session, records: Sequence[Record]) -> dict[str, Any] | None:
    """Returns how the training records fill a step's rows; None where a run would refuse them."""
    options = session.config.training
    try:
        plain = is_plain(session.config)
        if is_chat(session.config):
            data, _ = conversations.fitting(session, records, "train")
        else:
            data = token_ids(session, records) if plain else tokenised(session, records)
        data = data.reserving(session.method.reserved)
        row_length, parts = session.config.data.row_length, options.accumulation
        batches = PackedBatches(data, session.layout, options.batch, session.config.data.seed, row_length, parts)
    except UserError:
        return None
    steps = options.steps or max(1, round(options.epochs * batches.steps_per_epoch))
    shape = dataclasses.asdict(batches.shape)
    return {**shape, "steps_per_epoch": batches.steps_per_epoch, "steps": steps, **batches.statistics()}


def _rows(session: Session, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Returns records as runs of tokens of one kind, in the order in which a model reads and writes them."""
    if not records:
        return []
    if is_plain(session.config):
        return _windows(session, records)
    if is_chat(session.config):
        return _turns(session, records)
    data, _ = _token_ids(session, records)
    source = tokens.frame(session.formats.source, "source", session.tokenizer)
    rows = []
    for i, record in enumerate(records):
        ids = data.sources[i].tolist()
        first, last = len(source.before), len(ids) - len(source.after)
        read = [(MASKED, ids[:first]), (SOURCE, ids[first:last]), (MASKED, ids[last:])]
        parts = [*read, (TARGET, data.targets[i].tolist())]
        pieces = [{"kind": kind, "tokens": spelled(session.tokenizer, part)} for kind, part in parts if part]
        rows.append({"id": record.id, "parts": pieces})
    return rows


def _windows(session: Session, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Returns the first window of each text."""
    rows = []
    for record in records:
        (first, *_), _ = windows_of(session, [record])
        parts = [(MASKED, first.given), (TARGET, first.predicted)]
        pieces = [{"kind": kind, "tokens": spelled(session.tokenizer, ids)} for kind, ids in parts]
        rows.append({"id": record.id, "parts": pieces})
    return rows


def _turns(session: Session, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Returns conversations (of several examples, the last) as what is read and what has a loss, in turn."""
    rows = []
    for record in records:
        data = conversations.token_ids(session, [record])
        last = data.at(np.asarray([len(data) - 1]))
        ids = [*last.sources[0].tolist(), *last.targets[0].tolist()]
        trained = np.zeros(len(ids), bool)
        trained[len(last.sources[0]) :] = True if last.trained is None else last.trained
        words, edges = spelled(session.tokenizer, ids), np.flatnonzero(np.diff(trained)) + 1
        bounds = [0, *edges.tolist(), len(ids)]
        pieces = [
            {"kind": TARGET if trained[start] else SOURCE, "tokens": words[start:end]}
            for start, end in itertools.pairwise(bounds)
        ]
        rows.append({"id": record.id, "parts": pieces})
    return rows


def spelled(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Returns the text of each token; the parts of a character that several tokens share stand at its last."""

    def text(count: int) -> str:
        return tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    found, before = [], ""
    for count in range(1, len(ids) + 1):
        whole = text(count)
        if whole.endswith("�") and count < len(ids):
            found.append("")
            continue
        found.append(whole[len(before) :] if whole.startswith(before) else whole)
        before = whole
    return found
