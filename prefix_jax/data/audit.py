"""Audit of tokenisation round trips: measured once before a run and reported.

`measure` needs the tokenizer and returns JSON values for the cache; `findings` turns them into sentences.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefix_jax.data import array_cache, tokens
from prefix_jax.data.records import Record
from prefix_jax.data.texts import Printer, added_tokens
from prefix_jax.data.tokens import Frame, Ragged, TokenisedSet
from prefix_jax.dependencies import DataAudit
from prefix_jax.errors import UserError, did_you_mean

# Increment whenever `measure` returns different values for the same records.
VERSION = 1
# Targets changed by a round trip; words missing from the vocabulary; truncated sources; end tokens that decoding does
# not recognise; targets longer than decoding allows.
FINDINGS = ("changed", "unknown", "cut", "ends", "long")
# Share of targets that may exceed the decoding length before a finding is reported.
_FEW = 0.01
_SHOWN = 60

Measured = dict[str, Any]


def strict(text: str) -> frozenset[str]:
    """Returns the findings that `data.strict` turns into errors.

    Raises:
      UserError: it names an unknown finding.
    """
    names = [name.strip() for name in str(text).split(",") if name.strip()]
    for name in names:
        if name not in (*FINDINGS, "all"):
            raise UserError(f'data.strict has "{name}"{did_you_mean(name, (*FINDINGS, "all"))}')
    return frozenset(FINDINGS if "all" in names else names)


def kept(folder: Path | None, depends: DataAudit, make: Callable[[], Measured]) -> Measured:
    """Returns the measurements of `make`, cached in `folder` (None: no cache)."""

    def arrays() -> array_cache.Arrays:
        return {"measured": np.frombuffer(json.dumps(make()).encode(), np.uint8)}

    return json.loads(array_cache.kept(folder, depends, arrays)["measured"].tobytes())


def measure(
    records: Sequence[Record], data: TokenisedSet, printer: Printer, source_frame: Frame, target_format: str
) -> Measured:
    """Returns counts and first examples of changes that the tokenizer makes to the records, as JSON values.

    Args:
      data: token ids of the records, in the formats of the frames and `printer`.
    """
    tokenizer = printer.tokenizer
    sources, targets = [r.source for r in records], [r.target for r in records]
    ids = [r.id for r in records]
    return {
        "records": len(records),
        "what": "targets",
        "changed": _changed(targets, ids, data.targets, printer),
        "unknown": {
            "sources": _unknown(sources, ids, data.sources, source_frame, tokenizer),
            "targets": _unknown(targets, ids, data.targets, printer.frame, tokenizer),
        },
        "ends": {"closed": printer.closed, "tail": printer.tail, "format": target_format},
        "beyond": printer.beyond,
    }


def findings(
    measured: Measured, data: TokenisedSet, limit: int, longest_text: int, wanted: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Returns a sentence for each of `FINDINGS` that applies.

    Args:
      limit: `data.max_source_length`, reduced to the context length if necessary.
      longest_text: `decoding.max_length`.
      wanted: findings reported from the first occurrence.
    """
    found = {
        "changed": _changed_line(measured),
        "unknown": _unknown_line(measured),
        "cut": cut_line(data.sources.lengths, data.whole, limit),
        "ends": _ends_line(measured, longest_text),
        "long": _long_line(measured, data.targets.lengths, longest_text, 0.0 if "long" in wanted else _FEW),
    }
    return {name: line for name, line in found.items() if line}


def source_findings(
    texts: Sequence[str], data: Ragged, whole: np.ndarray, frame: Frame, tokenizer: Any, limit: int
) -> dict[str, str]:
    """Returns the findings about sources.

    Args:
      whole: source lengths before truncation to `limit`.
    """
    names = [f"input {number}" for number in range(1, len(texts) + 1)]
    unknown = {"sources": _unknown(texts, names, data, frame, tokenizer)}
    found = {
        "unknown": _unknown_line({"records": len(texts), "unknown": unknown}),
        "cut": cut_line(data.lengths, whole, limit),
    }
    return {name: line for name, line in found.items() if line}


def reference_findings(
    records: Sequence[Record], printer: Printer, target_format: str, longest_text: int
) -> dict[str, str]:
    """Returns the findings about references of scored records that no output can match."""
    pairs = [(record.id, text) for record in records for text in record.references]
    names, texts = [name for name, _ in pairs], [text for _, text in pairs]
    ids = tokens.tokenise_targets(texts, printer.tokenizer, target_format)
    measured = {
        "records": len(texts),
        "what": "references",
        "changed": _changed(texts, names, ids, printer),
        "unknown": {"references": _unknown(texts, names, ids, printer.frame, printer.tokenizer)},
        "beyond": printer.beyond,
    }
    found = {
        "changed": _changed_line(measured),
        "unknown": _unknown_line(measured),
        "long": _long_line(measured, ids.lengths, longest_text, _FEW),
    }
    return {name: line for name, line in found.items() if line}


def say(where: str, found: dict[str, str], wanted: frozenset[str], quiet: bool = False) -> None:
    """Prints the findings to stderr, one per line.

    Args:
      where: description of the records, such as "train".
      wanted: findings treated as errors.
      quiet: suppresses output.

    Raises:
      UserError: a finding treated as an error occurred.
    """
    errors = [name for name in FINDINGS if name in found and name in wanted]
    for name, line in found.items():
        if name not in errors[:1] and not quiet:
            print(f"{where}: {line}", file=sys.stderr)
    if errors:
        raise UserError(f"{where}: {found[errors[0]]} (data.strict makes this an error)")


def _distinct(texts: Sequence[str]) -> tuple[list[int], Counter]:
    """Returns the first index and the count of each distinct text."""
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        first.setdefault(text, place)
    return list(first.values()), Counter(texts)


def _changed(texts: Sequence[str], names: Sequence[str], ids: Ragged, printer: Printer) -> Measured:
    """Compares each text with its detokenised form."""
    places, counts = _distinct(texts)
    written = [printer.until_end(ids[place].tolist()) for place in places]
    changed = [
        (place, after, tokens)
        for place, after, tokens in zip(places, printer.texts(written), written, strict=True)
        if after != texts[place].strip()
    ]
    if not changed:
        return {"count": 0}
    place, after, tokens = changed[0]
    lost = [_lost_tokens(texts[p], ids[p].tolist(), printer) for p, _, _ in changed]
    names_of = added_tokens(printer.tokenizer)
    ended_by = [names_of[id].content for id in ids[place].tolist()[len(tokens) :] if id in names_of][:1]
    return {
        "count": sum(counts[texts[p]] for p, _, _ in changed),
        "record": names[place],
        "before": texts[place].strip(),
        "after": after,
        "lost": list(dict.fromkeys(token for tokens in lost for token in tokens)),
        "ended_by": next((name for name in ended_by if name in texts[place]), ""),
    }


def _lost_tokens(text: str, ids: Sequence[int], printer: Printer) -> list[str]:
    """Returns the special tokens of a text that detokenisation drops, except end tokens."""
    names = added_tokens(printer.tokenizer)
    found = [names[id].content for id in ids if id in printer.skipped and id not in printer.ends and id in names]
    return [name for name in found if name in text]


def _unknown(texts: Sequence[str], names: Sequence[str], ids: Ragged, frame: Frame, tokenizer: Any) -> Measured:
    """Finds texts with a piece that became the unknown token."""
    unknown = tokenizer.unk_token_id
    if unknown is None or not len(ids.ids):
        return {"count": 0}
    at = np.flatnonzero(ids.ids == unknown)
    sequence = np.searchsorted(ids.offsets, at, side="right") - 1
    inside = (at >= ids.offsets[sequence] + len(frame.before)) & (at < ids.offsets[sequence + 1] - len(frame.after))
    literal = tokenizer.unk_token
    hits = [int(n) for n in np.unique(sequence[inside]) if literal not in texts[n]]
    if not hits:
        return {"count": 0}
    return {"count": len(hits), "record": names[hits[0]], "piece": _piece(texts[hits[0]], unknown, tokenizer)}


def _piece(text: str, token: int, tokenizer: Any) -> str:
    """Returns the first part of a text that became the given token; the whole text if offsets are unavailable."""
    try:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        start, end = found["offset_mapping"][found["input_ids"].index(token)]
    except (NotImplementedError, KeyError, ValueError, TypeError):
        return text
    return text[start:end].strip() or text


def _changed_line(measured: Measured) -> str:
    found = measured.get("changed", {})
    if not found.get("count"):
        return ""
    before, after = _around(found["before"], found["after"])
    return (
        f"{found['count']} of {measured['records']} {measured['what']} are changed by the tokenizer, the first "
        f"({found['record']}) {before} as {after}; {_fix(found)}"
    )


def _fix(found: Measured) -> str:
    if found["ended_by"]:
        return f'"{found["ended_by"]}" inside a target ends it; remove it, or set --config.data.target_format'
    if found["lost"]:
        return f"set --config.data.keep_special_tokens={','.join(found['lost'][:8])} to keep these tokens in outputs"
    return "write targets in the changed form, or use a model whose vocabulary covers them"


def _around(before: str, after: str) -> tuple[str, str]:
    """Returns both texts, escaped, starting shortly before the first difference."""
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = 0 if max(len(before), len(after)) <= _SHOWN else max(0, same - _SHOWN // 2)
    return _short(before, start), _short(after, start)


def _short(text: str, start: int = 0) -> str:
    shown = text[start : start + _SHOWN]
    return repr(("..." if start else "") + shown + ("..." if len(text) > start + _SHOWN else ""))


def _unknown_line(measured: Measured) -> str:
    parts = []
    for side, found in measured.get("unknown", {}).items():
        if found["count"]:
            parts.append(
                f"{found['count']} of {measured['records']} {side} have words missing from the vocabulary, the first "
                f"{_short(found['piece'])} ({found['record']})"
            )
    return " and ".join(parts) + "; rewrite them, or use a model whose vocabulary covers them" if parts else ""


def cut_line(lengths: np.ndarray, whole: np.ndarray | None, limit: int) -> str:
    """Returns the finding about truncated sources; "" if there are none."""
    cut = 0 if whole is None else int((whole > lengths).sum())
    if whole is None or not cut:
        return ""
    return (
        f"{cut} of {len(lengths)} sources are cut to {limit} tokens (the longest has {int(whole.max())}); raise "
        "--config.data.max_source_length, up to the model's context length, or shorten them"
    )


def _ends_line(measured: Measured, longest: int) -> str:
    ends = measured.get("ends", {"closed": True})
    if ends["closed"]:
        return ""
    said = "does not end in a token that ends a text"
    does = (
        f"decoding writes on to decoding.max_length={longest} and cuts each text at its first {_short(ends['tail'])}"
        if ends["tail"]
        else f"nothing stops decoding before decoding.max_length={longest}"
    )
    return f"data.target_format {_short(ends['format'])} {said}: {does}; put {{eos}} at its end"


def _long_line(measured: Measured, lengths: np.ndarray, longest: int, share: float) -> str:
    lengths = lengths - measured["beyond"]
    over = int((lengths > longest).sum())
    if not over or over <= share * len(lengths):
        return ""
    return (
        f"{over} of {len(lengths)} {measured['what']} are longer than decoding.max_length={longest} tokens (the "
        f"longest has {int(lengths.max())}) and cannot be written whole; raise --config.decoding.max_length"
    )
