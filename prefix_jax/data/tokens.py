"""Tokenisation of records, optionally cached under a hash of all inputs that determine the token ids."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefix_jax.data import array_cache, languages
from prefix_jax.data.records import Record
from prefix_jax.dependencies import ConversationIds, TokenIds
from prefix_jax.errors import UserError, did_you_mean

# Version of cached token ids: increment it whenever the same records, tokenizer, formats and limits give other arrays.
VERSION = 2
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Formats:
    """Templates of a segment: {source} or {target}, {bos} and {eos} (the tokenizer's tokens), other special or
    added tokens by name, such as {fra_Latn}, and plain text.
    """

    source: str
    target: str


@dataclass(frozen=True)
class Limits:
    """Maximum tokens, including those of the formats: a longer source is truncated, a longer target is an error.

    `window` bounds source and target together (decoder-only; 0: nothing does).
    """

    source: int = 512
    target: int = 128
    window: int = 0


class Ragged(NamedTuple):
    """Sequences in one array: sequence i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: np.ndarray  # int32 [total]
    offsets: np.ndarray  # int64 [count + 1]

    def __getitem__(self, i: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def at(self, places: np.ndarray) -> "Ragged":
        """Returns the sequences at these places."""
        lengths = self.lengths[places]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        within = np.arange(int(lengths.sum())) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.ids[np.repeat(self.offsets[places], lengths) + within], offsets)


class SoftTargets(NamedTuple):
    """A teacher's likeliest tokens in place of each target that has a loss, in the order of `TokenisedSet.scored`."""

    ids: np.ndarray  # int32 [scored targets, k]
    log_probs: np.ndarray  # float32 [scored targets, k]


@dataclass(frozen=True)
class TokenisedSet:
    """Token ids of every record's source and target, in record order.

    `whole` holds the source lengths before truncation; None if no source was truncated. `trained` marks the target
    tokens that have a loss, of which each target begins and ends with one; None: all. `owners` are the places of the
    records that the sequences are of; None: each is a record. `soft` are a teacher's distributions over next tokens.
    """

    sources: Ragged
    targets: Ragged
    whole: np.ndarray | None = None  # int64 [count]
    trained: np.ndarray | None = None  # bool [targets' total]
    owners: np.ndarray | None = None  # int64 [count]
    soft: SoftTargets | None = None

    def __len__(self) -> int:
        return len(self.sources.offsets) - 1

    def at(self, places: np.ndarray) -> "TokenisedSet":
        """Returns the records at these places."""
        whole, owners = (None if own is None else own[places] for own in (self.whole, self.owners))
        marked = None if self.trained is None else Ragged(self.trained, self.targets.offsets).at(places).ids
        soft = None
        if self.soft is not None:
            offsets = self.scored()[0].offsets
            soft = SoftTargets(*(_rows_at(part, offsets, places) for part in self.soft))
        return TokenisedSet(self.sources.at(places), self.targets.at(places), whole, marked, owners, soft)

    def reserving(self, count: int) -> "TokenisedSet":
        """Prepends `count` placeholder ids (0) to each source for the virtual tokens of a prompt."""
        if not count:
            return self
        before, lengths = self.sources, self.sources.lengths
        offsets = before.offsets + count * np.arange(len(before.offsets))
        ids = np.zeros(offsets[-1], np.int32)
        moved = np.arange(len(before.ids)) + np.repeat(count * np.arange(1, len(lengths) + 1), lengths)
        ids[moved] = before.ids
        return replace(self, sources=Ragged(ids, offsets))

    def scored(self) -> tuple[Ragged, np.ndarray]:
        """Returns the target tokens that have a loss, and the place of each in its target."""
        targets = self.targets
        places = np.arange(len(targets.ids)) - np.repeat(targets.offsets[:-1], targets.lengths)
        if self.trained is None:
            return targets, places
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.trained)])
        return Ragged(targets.ids[self.trained], before[targets.offsets]), places[self.trained]


def _rows_at(rows: np.ndarray, offsets: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns the rows of the sequences at these places; sequence i has rows `offsets[i]` to `offsets[i + 1]`."""
    return rows[Ragged(np.arange(len(rows)), offsets).at(places).ids]


def default_formats(tokenizer: Any, encoder_decoder: bool, source: str = "", target: str = "") -> Formats:
    """Returns the default formats of a model; `source` and `target` are `data.source_language` and `.target_language`.

    A tokenizer that marks languages: the tokens that it puts around a text.
    Other encoder-decoder: each side ends in {eos}, and begins with {bos} where the tokenizer puts one (BART).
    Decoder-only with one token for both ends (GPT-2): the form of
    Li & Liang 2021. Other decoder-only: source, newline, target, {eos}, after a {bos} where the tokenizer puts one.
    """
    if source or target or (encoder_decoder and languages.are_marked(tokenizer)):
        codes = languages.sides(tokenizer, source, target)._asdict()
        return Formats(*(languages.template(tokenizer, side, code) for side, code in codes.items()))
    if encoder_decoder:
        # BART's tokenizer frames a text by both, T5's only ends it.
        first = list(tokenizer("a")["input_ids"])[:1]
        begin = "{bos}" if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else ""
        return Formats(begin + "{source}{eos}", begin + "{target}{eos}")
    if tokenizer.bos_token_id is not None and tokenizer.bos_token_id == tokenizer.eos_token_id:
        return Formats(" {source} {bos}", " {target} {eos}")
    first = list(tokenizer("a")["input_ids"])[:1]
    begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    return Formats("{bos}{source}\n" if begins else "{source}\n", "{target}{eos}")


def plain_formats(tokenizer: Any, encoder_decoder: bool) -> Formats:
    """Returns the formats of a text that is continued: the tokens that the tokenizer puts around a text."""
    first = list(tokenizer("a")["input_ids"])[:1]
    begin = "{bos}" if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else ""
    return Formats(begin + "{source}" + ("{eos}" if encoder_decoder else ""), "{target}")


def kept(folder: Path | None, depends: TokenIds | ConversationIds, make: Callable[[], TokenisedSet]) -> TokenisedSet:
    """Returns the result of `make`, cached in `folder` under a hash of its inputs (None: no cache)."""

    def arrays() -> array_cache.Arrays:
        made = make()
        return {
            "source_ids": made.sources.ids, "source_offsets": made.sources.offsets,
            "target_ids": made.targets.ids, "target_offsets": made.targets.offsets,
            "source_whole": made.sources.lengths if made.whole is None else made.whole,
            **{name: own for name in ("trained", "owners") if (own := getattr(made, name)) is not None},
        }  # fmt: skip

    found = array_cache.kept(folder, depends, arrays)
    source, target = (Ragged(found[f"{side}_ids"], found[f"{side}_offsets"]) for side in ("source", "target"))
    return TokenisedSet(source, target, found["source_whole"], found.get("trained"), found.get("owners"))


def tokenise(records: Sequence[Record], tokenizer: Any, formats: Formats, limits: Limits) -> TokenisedSet:
    """Returns the records' token ids.

    Args:
      tokenizer: a fast tokenizer of `transformers`, or a callable with the same interface.

    Raises:
      UserError: a bad format; a target, or source and target together, longer than the limits; an empty side.
    """
    sources, whole = sources_and_lengths([r.source for r in records], tokenizer, formats.source, limits.source)
    result = TokenisedSet(sources, tokenise_targets([r.target for r in records], tokenizer, formats.target), whole)
    _check(result, records, limits)
    return result


def tokenise_sources(texts: Sequence[str], tokenizer: Any, source_format: str, limit: int) -> Ragged:
    """Returns the ids of sources; a longer one than `limit` loses the end of its text, not the format's tail."""
    return sources_and_lengths(texts, tokenizer, source_format, limit)[0]


def sources_and_lengths(
    texts: Sequence[str], tokenizer: Any, source_format: str, limit: int
) -> tuple[Ragged, np.ndarray]:
    """Returns the ids of sources, and their lengths before truncation to `limit`."""
    return _encode(texts, _Form(source_format, "source", tokenizer), tokenizer, limit)


def tokenise_targets(texts: Sequence[str], tokenizer: Any, target_format: str) -> Ragged:
    """Returns the ids of targets, without truncation."""
    return _encode(texts, _Form(target_format, "target", tokenizer), tokenizer)[0]


class Frame(NamedTuple):
    """Ids that a format adds before and after a text. Where a text touches plain text of the format, tokenisation may
    differ at that boundary.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]


def frame(template: str, name: str, tokenizer: Any) -> Frame:
    """Returns the ids of a format without a text; `name` is "source" or "target"."""
    form = _Form(template, name, tokenizer)
    left = _batch(tokenizer, [form.left], name)[0] if form.left else []
    return Frame((*form.before.tolist(), *left), (*form.tail.tolist(), *form.after.tolist()))


class Pieces(NamedTuple):
    """A format taken apart: special ids around it, and plain text that touches the source or target."""

    ids: Frame
    left: str
    right: str


def pieces(template: str, name: str, tokenizer: Any) -> Pieces:
    """Returns the pieces of a format; `name` is "source" or "target"."""
    form = _Form(template, name, tokenizer)
    return Pieces(Frame(tuple(form.before.tolist()), tuple(form.after.tolist())), form.left, form.right)


def encoded_texts(tokenizer: Any, texts: Sequence[str], side: str) -> list[list[int]]:
    """Returns the ids of plain texts, without special tokens; `side` is "source" or "target"."""
    return [list(ids) for ids in _batch(tokenizer, list(texts), side)] if texts else []


def check_ids(ids: Ragged, rows: int, word: Callable[[int], str], place: Callable[[int], str]) -> None:
    """Checks that ids are within an embedding; a device would read others as NaN.

    Args:
      rows: number of rows of the embedding.
      word: (id) -> its token.
      place: (index of a sequence) -> its description in the message.

    Raises:
      UserError: an id is below 0 or at or above `rows`.
    """
    if not len(ids.ids) or (ids.ids.min() >= 0 and ids.ids.max() < rows):
        return
    first = int(((ids.ids < 0) | (ids.ids >= rows)).argmax())
    token, sequence = int(ids.ids[first]), int(np.searchsorted(ids.offsets, first, side="right")) - 1
    raise UserError(
        f'{place(sequence)} has the token "{word(token)}" with id {token}, but the model\'s embedding has '
        f"{rows} rows (ids 0 to {rows - 1}); use the tokenizer of this model, or remove the token"
    )


class _Form:
    """A format split at its special tokens: ids before, the text around the placeholder, ids after."""

    def __init__(self, template: str, name: str, tokenizer: Any):
        self.name, self.template = name, template
        head, found, tail = template.partition(f"{{{name}}}")
        if not found or f"{{{name}}}" in tail:
            raise UserError(
                f'data.{name}_format "{template}" must hold {{{name}}} once, for instance "{{{name}}}{{eos}}".'
            )
        before, self.left = self._ids(head, tokenizer, last=True)
        after, self.right = self._ids(tail, tokenizer, last=False)
        self.before, self.after = np.asarray(before, np.int32), np.asarray(after, np.int32)
        self.tail = np.asarray(_batch(tokenizer, [self.right], name)[0] if self.right else [], np.int32)

    def _ids(self, template: str, tokenizer: Any, last: bool) -> tuple[list[int], str]:
        """Returns a side's ids and the plain text that touches the placeholder (its last or its first piece)."""
        pieces = _PLACEHOLDER.split(template)  # text, name, text, name, ..., text
        touching = pieces.pop(-1 if last else 0)
        ids: list[int] = []
        # What is left alternates, and begins with a text (left side) or a name (right side).
        for number, piece in enumerate(pieces):
            if (number % 2 == 0) == last:
                ids += _batch(tokenizer, [piece], self.name)[0] if piece else []
            else:
                ids.append(self._special(piece, tokenizer))
        return ids, touching

    def _special(self, name: str, tokenizer: Any) -> int:
        if name not in ("bos", "eos"):
            added = getattr(tokenizer, "added_tokens_decoder", {})
            if (token := next((id for id, known in added.items() if str(known) == name), None)) is not None:
                return int(token)
            hint = did_you_mean(name, (self.name, "bos", "eos"))
            raise UserError(f'data.{self.name}_format has the unknown placeholder "{{{name}}}"{hint}')
        token = getattr(tokenizer, f"{name}_token_id")
        if token is None:
            raise UserError(f"data.{self.name}_format uses {{{name}}}, which the tokenizer does not define; remove it.")
        return int(token)


def _batch(tokenizer: Any, texts: list[str], side: str) -> list[list[int]]:
    options = dict(add_special_tokens=False, return_attention_mask=False, verbose=False)
    # Some tokenizers cut targets by another vocabulary (Marian's).
    if side == "target" and hasattr(tokenizer, "_switch_to_target_mode"):
        return tokenizer(text_target=texts, **options)["input_ids"]
    return tokenizer(texts, **options)["input_ids"]


def _encode(texts: Sequence[str], form: _Form, tokenizer: Any, limit: int = 0) -> tuple[Ragged, np.ndarray]:
    """Returns the ids of texts in a format, and their lengths before truncation to `limit` (0: no limit)."""
    # Table-to-text sources repeat for each reference: tokenise each distinct text once.
    distinct: dict[str, int] = {}
    rank = np.fromiter((distinct.setdefault(text, len(distinct)) for text in texts), np.int64, len(texts))
    encoded = _batch(tokenizer, [form.left + text + form.right for text in distinct], form.name) if distinct else []
    frame = len(form.before) + len(form.after)
    whole = np.asarray([len(ids) + frame for ids in encoded], np.int64)
    if limit and (whole > limit).any():
        encoded = _cut(list(distinct), encoded, form, tokenizer, limit - frame)
    sequences = [np.concatenate([form.before, np.asarray(ids, np.int32), form.after]) for ids in encoded]
    lengths = np.asarray([len(s) for s in sequences], np.int64)[rank] if len(texts) else np.zeros(0, np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids = np.concatenate([sequences[i] for i in rank]) if len(texts) else np.zeros(0, np.int32)
    return Ragged(ids.astype(np.int32), offsets), whole[rank]


def _cut(texts: list[str], encoded: list[list[int]], form: _Form, tokenizer: Any, room: int) -> list[list[int]]:
    """Truncates sequences longer than `room`: drops the end of the text and keeps the format's tail."""
    tail = list(form.tail)
    if room - len(tail) < 1:
        raise UserError(f"data.max_{form.name}_length leaves no room for the {form.name}'s text; raise it.")
    long = [i for i, ids in enumerate(encoded) if len(ids) > room]
    heads = _batch(tokenizer, [form.left + texts[i] for i in long], form.name)
    result = list(encoded)
    for i, head in zip(long, heads, strict=True):
        result[i] = head[: room - len(tail)] + tail
    return result


def _check(data: TokenisedSet, records: Sequence[Record], limits: Limits) -> None:
    sources, targets = data.sources.lengths, data.targets.lengths
    for lengths, side in ((sources, "source"), (targets, "target")):
        if len(lengths) and lengths.min() == 0:
            record = records[int(lengths.argmin())]
            raise UserError(f"Record {record.id} has a {side} without tokens; fix its text or data.{side}_format.")
    if len(records) and targets.max() > limits.target:
        i = int((targets > limits.target).argmax())
        raise UserError(
            f"Record {records[i].id} has a target of {targets[i]} tokens, over the {limits.target} allowed; raise "
            f"--config.data.max_target_length to {targets.max()} (the longest) or shorten the text."
        )
    # The last target token is predicted, never read.
    total = sources + targets - 1
    if limits.window and len(records) and total.max() > limits.window:
        i = int((total > limits.window).argmax())
        raise UserError(
            f"Record {records[i].id} has {sources[i]} source and {targets[i]} target tokens, over the context length "
            f"of {limits.window}; lower --config.data.max_source_length or shorten the text."
        )
