"""NIST (Doddington 2002) with several references, as computed by the E2E scorer's Python code (`-p`).

Source: `metrics/pymteval.py` of github.com/tuetschek/e2e-metrics, which its README calls the proper reading of
mteval-v13a for a varying number of references.
"""

import math
from collections import Counter
from collections.abc import Sequence

from prefix_jax.metrics.bleu import tokens_13a
from prefix_jax.metrics.rows import Row

ORDERS = 5
# Makes the brevity penalty 1/2 for an output with 2/3 of the references' length.
BETA = math.log(0.5) / math.log(1.5) ** 2


def nist(rows: Sequence[Row]) -> float:
    """Returns NIST over n-grams of 1 to 5 lower-case 13a tokens.

    Matches are clipped at the n-gram's maximum count in any single reference. A match weighs log2(count of its first
    n-1 tokens / its count), counted over all references of all rows; the empty prefix counts every token. The brevity
    penalty compares the total output length with the sum over rows of the mean reference length.
    """
    counts_all: Counter[tuple[str, ...]] = Counter()
    matched: Counter[tuple[str, ...]] = Counter()
    lengths, reference_length = [], 0.0
    for row in rows:
        references = [tokens_13a(text) for text in row["references"]]
        per_reference = [_ngrams(tokens) for tokens in references]
        for counts in per_reference:
            counts_all.update(counts)
        hypothesis = tokens_13a(row["hypothesis"])
        for ngram, count in _ngrams(hypothesis).items():
            matched[ngram] += min(count, max(counts[ngram] for counts in per_reference))
        lengths.append(len(hypothesis))
        reference_length += sum(map(len, references)) / len(references)
    counts_all[()] = sum(count for ngram, count in counts_all.items() if len(ngram) == 1)
    information = [0.0] * ORDERS
    for ngram, count in matched.items():
        if count:
            information[len(ngram) - 1] += count * math.log2(counts_all[ngram[:-1]] / counts_all[ngram])
    # An output shorter than the order counts a negative number of n-grams, as in the official scorer.
    totals = [sum(length - order for length in lengths) for order in range(ORDERS)]
    score = sum(bits / total for bits, total in zip(information, totals, strict=True) if total > 0)
    ratio = sum(lengths) / reference_length
    return score * math.exp(BETA * math.log(min(1.0, ratio)) ** 2)


def _ngrams(tokens: list[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )
