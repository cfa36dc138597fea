"""ROUGE through rouge-score with Porter stemming; the only module that imports it.

Lin 2004; Li and Liang (2021) use this library. The Perl ROUGE-1.5.5 differs by 0.1 to 0.3. Its own tokenizer keeps only
letters a to z and digits: other languages use a tokenizer of words in any script.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from prefix_jax import extras, lean_imports
from prefix_jax.metrics.languages import ENGLISH, Language
from prefix_jax.metrics.rows import Row

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|(?<=[।؟])\s+")
_ENGLISH_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def rouge(rows: Sequence[Row], kinds: Sequence[str], language: Language = ENGLISH) -> dict[str, float]:
    """Returns the mean F1 in percent for each of `kinds` (rouge1, rouge2, rougeL, rougeLsum).

    Each kind uses the best of several references. rougeLsum compares sentence by sentence (see `sentences`). A record
    whose references have no English word is compared by words of any script, in any language.
    """
    english, universal = _scorer(tuple(kinds), True, True), _scorer(tuple(kinds), False, language.spaced)
    ends = _ENGLISH_SENTENCE_END if language.code == "en" else _SENTENCE_END
    prepare = (lambda text: sentences(text, ends)) if "rougeLsum" in kinds else str
    sums = dict.fromkeys(kinds, 0.0)
    for row in rows:
        scorer = english if language.code == "en" and _has_english(row) else universal
        scores = scorer.score_multi([prepare(text) for text in row["references"]], prepare(row["hypothesis"]))
        for kind in kinds:
            sums[kind] += scores[kind].fmeasure
    return {kind: 100 * total / len(rows) for kind, total in sums.items()}


def word_counts(rows: Sequence[Row], language: Language) -> list[int]:
    """Returns the word count of each row's longest reference, as counted by `rouge`."""
    english, universal = _english_words(), words(language.spaced)
    return [
        max(
            len((english if language.code == "en" and _has_english(row) else universal)(text))
            for text in row["references"]
        )
        for row in rows
    ]


def words(spaced: bool) -> Callable[[str], list[str]]:
    """Returns a function from a text to its lower-case words, or to its letters if words are not separated by spaces.

    Combining marks stay with their letters. A text without letters and digits is split into its other characters.
    """

    def cut(text: str) -> list[str]:
        text = unicodedata.normalize("NFC", text).lower()
        found: list[str] = []
        inside = False
        for character in text:
            kind = unicodedata.category(character)[0]
            joined = inside and (kind == "M" or (kind in "LN" and (spaced or _western(character, found[-1]))))
            if joined:
                found[-1] += character
            elif kind in "LN":
                found.append(character)
            inside = joined or kind in "LN"
        return found or [character for character in text if not character.isspace()]

    return cut


def sentences(text: str, ends: re.Pattern[str] = _ENGLISH_SENTENCE_END) -> str:
    """Returns `text` with one sentence per line, as rougeLsum expects.

    Existing line breaks are kept, as in CNN/DM's highlights; other texts are split after ., ! and ?.
    """
    return text if "\n" in text.strip() else "\n".join(part for part in ends.split(text.strip()) if part)


def _western(character: str, before: str) -> bool:
    """Returns whether a character continues a space-separated word or number inside a text without spaces."""
    return ord(character) < 0x250 and ord(before[-1]) < 0x250


def _has_english(row: Row) -> bool:
    return any(re.search("[a-z0-9]", text.lower()) for text in row["references"])


@cache
def _scorer(kinds: tuple[str, ...], english: bool, spaced: bool) -> Any:
    extras.require("rouge_score", "ROUGE")
    with lean_imports.without("scipy.stats"):
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import Tokenizer

    cut = words(spaced)

    class Words(Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return cut(text)

    return RougeScorer(list(kinds), use_stemmer=True, tokenizer=None if english else Words())


def _english_words() -> Callable[[str], list[str]]:
    extras.require("rouge_score", "ROUGE")
    with lean_imports.without("scipy.stats"):
        from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=False).tokenize
