"""Validity of scores for given references: a score that even a perfect output cannot reach measures nothing.

Each function returns the reason against a score, or "". Only references are considered, so that all outputs for the
same references are scored alike.
"""

from collections.abc import Sequence

from prefix_jax.metrics import bleu, coco, nist
from prefix_jax.metrics.languages import Language
from prefix_jax.metrics.rows import Row

# Largest share of rows in a mean that no output can score.
_TOLERATED = 0.01
_CIDER_TOP = 10.0
# Largest BLEU of the E2E scorer that counts as sound: it miscounts 4-grams in outputs shorter than four tokens.
TOP = 100 * (1 + _TOLERATED)
BROKEN_COUNT = "texts under four tokens break this scorer's count of 4-grams"


def of_ngrams(counts: Sequence[int], order: int) -> str:
    """Returns the reason against a corpus-level score based on n-grams of an order.

    `counts` are the token counts of each row's longest reference. If only few of many rows have such n-grams, those few
    would determine the score.
    """
    enough = sum(count >= order for count in counts)
    if 2 * enough >= len(counts):
        return ""
    return f"it needs references of {order} tokens or more, which {enough} of {len(counts)} have"


def of_wordless(rows: Sequence[Row]) -> str:
    """Returns the reason against a word-based score: references without words after normalisation."""
    enough = sum(any(text.strip() for text in row["references"]) for row in rows)
    return "" if 2 * enough >= len(rows) else f"it counts words, which {enough} of {len(rows)} references have"


def of_mean(counts: Sequence[int], order: int) -> str:
    """Returns the reason against a mean over rows of scores based on n-grams of an order."""
    enough = sum(count >= order for count in counts)
    if enough >= len(counts) * (1 - _TOLERATED):
        return ""
    return f"it needs references of {order} words or more, which {enough} of {len(counts)} have"


def of_e2e_bleu(rows: Sequence[Row]) -> str:
    """Returns the reason against the E2E scorer's BLEU: so many short texts that a perfect output is below 100."""
    return "" if 100 * (1 - _TOLERATED) <= bleu.bleu_e2e(_perfect(rows)) <= TOP else BROKEN_COUNT


def of_nist(rows: Sequence[Row]) -> str:
    """Returns the reason against NIST: words that do not distinguish the rows."""
    return "" if nist.nist(_perfect(rows)) > 0 else "no word of the references is rarer than another"


def of_cider(tokenized: Sequence[Row]) -> str:
    """Returns the reason against CIDEr: too few or too short references for words to differ in frequency."""
    if len(tokenized) < 2:
        return "it weighs words by how rare they are among the records, and there is one record"
    rows = _perfect(tokenized)
    alone: list[Row] = [{"hypothesis": row["hypothesis"], "references": [row["hypothesis"]]} for row in rows]
    if coco.cider(alone) >= _CIDER_TOP * (1 - _TOLERATED):
        return ""
    return "the references are too short or too much alike for its n-grams of one to four words"


def of_meteor(language: Language) -> str:
    """Returns the reason against METEOR."""
    if language.meteor:
        return ""
    return f'it has no rules for "{language.code}"' if language.fits else "the references are of another script"


def of_words(language: Language) -> str:
    """Returns the reason against a score that counts space-separated words."""
    return "" if language.spaced else "it counts words between spaces, which these texts do not have"


def _perfect(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with the longest reference as output."""
    return [
        {"hypothesis": max(row["references"], key=lambda text: len(text.split())), "references": row["references"]}
        for row in rows
    ]
