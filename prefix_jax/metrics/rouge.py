"""ROUGE through rouge-score with Porter stemming, the only module that imports it.

Lin 2004; Li and Liang (2021) use this library. The Perl ROUGE-1.5.5 differs from it by 0.1 to 0.3.
"""

import re
from collections.abc import Sequence

from prefix_jax.metrics.rows import Row

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def rouge(rows: Sequence[Row], kinds: Sequence[str]) -> dict[str, float]:
    """Returns the mean F1 in percent for each of `kinds` (rouge1, rouge2, rougeL, rougeLsum).

    Of several references, each kind takes its best. rougeLsum compares sentence by sentence (see `sentences`).
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(kinds), use_stemmer=True)
    prepare = sentences if "rougeLsum" in kinds else str
    sums = dict.fromkeys(kinds, 0.0)
    for row in rows:
        references = [prepare(text) for text in row["references"]]
        scores = scorer.score_multi(references, prepare(row["hypothesis"]))
        for kind in kinds:
            sums[kind] += scores[kind].fmeasure
    return {kind: 100 * total / len(rows) for kind, total in sums.items()}


def sentences(text: str) -> str:
    """Returns `text` with one sentence a line, which is what rougeLsum splits at.

    A text that has line breaks keeps them, as CNN/DM's highlights do; others are cut after ., ! and ?.
    """
    return text if "\n" in text.strip() else "\n".join(_SENTENCE_END.split(text.strip()))
