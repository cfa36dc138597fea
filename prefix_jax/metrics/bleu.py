"""BLEU, chrF and TER through sacrebleu (Post 2018), the only module that imports it.

Rows have different numbers of references, and the official scorers differ in what a missing one is: nothing at all
(`pad=None`), or an empty line of length 0 (`pad=""`), which BLEU's brevity penalty may then pick as the closest.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from prefix_jax.metrics.rows import Row


@cache
def _tokenizer_13a():
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


def tokens_13a(text: str) -> list[str]:
    """Returns the lower-case tokens of mteval-v13a; an empty text is one empty token, as for the E2E scorer."""
    return _tokenizer_13a()(text.lower().rstrip()).split(" ")


def streams(rows: Sequence[Row], pad: str | None) -> tuple[list[str], list[Any]]:
    """Returns `rows` as sacrebleu takes them: hypotheses, and one list of references for each place in a row."""
    places = max(len(row["references"]) for row in rows)
    references = [
        [row["references"][place] if place < len(row["references"]) else pad for row in rows] for place in range(places)
    ]
    return [row["hypothesis"] for row in rows], references


def bleu(rows: Sequence[Row], *, tokenize: str, lowercase: bool, smooth: str, pad: str | None) -> float:
    """Returns corpus BLEU in percent; the options are sacrebleu's.

    `tokenize="none", smooth="none", pad=""` is Moses' multi-bleu.perl over files with empty lines.
    """
    return float(_corpus_score(rows, tokenize=tokenize, lowercase=lowercase, smooth=smooth, pad=pad).score)


def _corpus_score(rows: Sequence[Row], *, tokenize: str, lowercase: bool, smooth: str, pad: str | None):
    from sacrebleu.metrics.bleu import BLEU

    # `force` silences a warning about text that is already tokenised, which is the very form some tasks score.
    metric = BLEU(tokenize=tokenize, lowercase=lowercase, smooth_method=smooth, force=True)
    return metric.corpus_score(*streams(rows, pad))


def bleu_e2e(rows: Sequence[Row]) -> float:
    """Returns BLEU in percent as the E2E scorer's own Python code (`-p`) has it.

    It is sacrebleu's (13a, lower case) but for outputs under four tokens, from which the E2E scorer counts a negative
    number of 4-grams, and for an absent match, which it replaces by a very small number.
    Source: `metrics/pymteval.py` of github.com/tuetschek/e2e-metrics.
    """
    matches = _corpus_score(rows, tokenize="13a", lowercase=True, smooth="none", pad=None)
    lengths = [len(tokens_13a(row["hypothesis"])) for row in rows]
    log_precision = 0.0
    for order, count in enumerate(matches.counts):
        total = sum(length - order for length in lengths)
        log_precision += math.log(max(count, 1e-15) / max(total, 1e-9)) / len(matches.counts)
    ratio = matches.ref_len / sum(lengths)
    return 100 * math.exp(log_precision + min(0.0, 1 - ratio))


def chrf(rows: Sequence[Row]) -> float:
    """Returns chrF2 in percent (Popovic 2015): the row's best reference, characters up to 6, as sacrebleu prints it."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(*streams(rows, None)).score)


def ter(rows: Sequence[Row]) -> float:
    """Returns TER in percent: the edits of all rows over their reference lengths (see `ter_edits`)."""
    return ter_of(ter_edits(rows))


def ter_edits(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """Returns each row's edits to its closest reference, shifts included, and its mean reference length in words.

    As tercom has them by default (Snover et al. 2006): case does not count, punctuation does.
    """
    from sacrebleu.metrics.ter import TER

    scores = [TER().sentence_score(row["hypothesis"], row["references"]) for row in rows]
    return [(score.num_edits, score.ref_length) for score in scores]


def ter_of(edits: Sequence[tuple[int, float]]) -> float:
    """Returns the TER in percent, lower being better, of rows with these `ter_edits`."""
    count = sum(count for count, _ in edits)
    length = sum(length for _, length in edits)
    if length == 0:  # Nothing to edit towards: what sacrebleu says.
        return 100.0 if count else 0.0
    return 100 * count / length
