import math

import pytest

from prefix_jax.metrics.nist import nist


def test_two_references_by_hand():
    # Over both references: a 2, b 2, c d e x 1 each, 8 tokens. Unigrams: (2 + 2 + 3 + 3 + 3) / 5. Of the bigrams only
    # "b c" informs (b twice, "b c" once), of the trigrams only "a b c": 1/4 and 1/3. The mean reference has 4 tokens.
    rows = [{"hypothesis": "a b c d e", "references": ["a b c d e", "a b x"]}]
    assert nist(rows) == pytest.approx(2.6 + 1 / 4 + 1 / 3, abs=1e-12)


def test_matches_are_clipped_at_the_largest_count_of_one_reference():
    # "a" is in both references, once and twice: two of the three count. Tokens: a 3, b 2, 5 in all.
    rows = [{"hypothesis": "a x a y a", "references": ["a b b", "a a"]}]
    assert nist(rows) == pytest.approx(2 * math.log2(5 / 3) / 5, abs=1e-12)


def test_two_thirds_of_the_length_halves_the_score():
    rows = [{"hypothesis": "a b c d e f", "references": ["a b c d e f g h i"]}]
    assert nist(rows) == pytest.approx(math.log2(9) / 2, abs=1e-12)


def test_single_references_agree_with_nltk():
    from nltk.translate.nist_score import corpus_nist

    from prefix_jax.metrics.bleu import tokens_13a

    texts = [
        ("The Eagle is a cheap pub near the river.", "The Eagle is a pub near the river, and it is cheap."),
        ("Blue Spice serves French food, cheaply!", "Blue Spice serves cheap French food."),
        ("It has 3.5 out of 5 stars.", "It was given 3.5 out of 5 stars by customers."),
    ]
    rows = [{"hypothesis": hypothesis, "references": [reference]} for hypothesis, reference in texts]
    expected = corpus_nist([[tokens_13a(text)] for _, text in texts], [tokens_13a(text) for text, _ in texts], n=5)
    assert nist(rows) == pytest.approx(expected, abs=1e-12)


def test_no_match_is_zero():
    assert nist([{"hypothesis": "x y z u v w", "references": ["a b c"]}]) == 0
    assert nist([{"hypothesis": "", "references": ["a b c"]}]) == 0
