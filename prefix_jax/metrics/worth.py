"""Which scores measure something of given references: one that even a perfect output cannot reach measures nothing.

Each function returns the reason against a score, or "". It looks at references alone, so that all outputs for the same
references have the same scores.
"""

from collections.abc import Sequence

from prefix_jax.metrics import bleu, coco, nist
from prefix_jax.metrics.languages import Language
from prefix_jax.metrics.rows import Row

# The share of rows that a mean may hold which no output can score.
_TOLERATED = 0.01
_CIDER_TOP = 10.0
# What the E2E scorer's BLEU may reach: it counts a negative number of 4-grams in an output under four tokens.
TOP = 100 * (1 + _TOLERATED)
BROKEN_COUNT = "texts under four tokens break this scorer's count of 4-grams"


def of_ngrams(counts: Sequence[int], order: int) -> str:
    """Returns what speaks against a score of all rows together that needs n-grams of an order.

    `counts` are the tokens of each row's longest reference. Where few of many rows have such n-grams, those few alone
    decide the score.
    """
    enough = sum(count >= order for count in counts)
    if 2 * enough >= len(counts):
        return ""
    return f"it needs references of {order} tokens or more, which {enough} of {len(counts)} have"


def of_wordless(rows: Sequence[Row]) -> str:
    """Returns what speaks against a score of words: that the form in which texts are compared leaves them none."""
    enough = sum(any(text.strip() for text in row["references"]) for row in rows)
    return "" if 2 * enough >= len(rows) else f"it counts words, which {enough} of {len(rows)} references have"


def of_mean(counts: Sequence[int], order: int) -> str:
    """Returns what speaks against a mean over rows of scores that need n-grams of an order."""
    enough = sum(count >= order for count in counts)
    if enough >= len(counts) * (1 - _TOLERATED):
        return ""
    return f"it needs references of {order} words or more, which {enough} of {len(counts)} have"


def of_e2e_bleu(rows: Sequence[Row]) -> str:
    """Returns what speaks against the E2E scorer's BLEU: so many short texts that a perfect output is not at 100."""
    return "" if 100 * (1 - _TOLERATED) <= bleu.bleu_e2e(_perfect(rows)) <= TOP else BROKEN_COUNT


def of_nist(rows: Sequence[Row]) -> str:
    """Returns what speaks against NIST: words that tell the rows apart by nothing."""
    return "" if nist.nist(_perfect(rows)) > 0 else "no word of the references is rarer than another"


def of_cider(tokenized: Sequence[Row]) -> str:
    """Returns what speaks against CIDEr: too few or too short references for words to be rarer than others."""
    if len(tokenized) < 2:
        return "it weighs words by how rare they are among the records, and there is one record"
    rows = _perfect(tokenized)
    alone: list[Row] = [{"hypothesis": row["hypothesis"], "references": [row["hypothesis"]]} for row in rows]
    if coco.cider(alone) >= _CIDER_TOP * (1 - _TOLERATED):
        return ""
    return "the references are too short or too much alike for its n-grams of one to four words"


def of_meteor(language: Language) -> str:
    """Returns what speaks against METEOR."""
    if language.meteor:
        return ""
    return f'it has no rules for "{language.code}"' if language.fits else "the references are of another script"


def of_words(language: Language) -> str:
    """Returns what speaks against a score that counts words between spaces."""
    return "" if language.spaced else "it counts words between spaces, which these texts do not have"


def _perfect(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with the longest reference as the output."""
    return [
        {"hypothesis": max(row["references"], key=lambda text: len(text.split())), "references": row["references"]}
        for row in rows
    ]
