import pytest
from common import data_file

from prefix_jax.metrics.rouge import rouge, sentences


def test_f1_in_percent_by_hand():
    rows = [{"hypothesis": "the cat sat", "references": ["the cat ran off"]}]
    # rouge1: 2 of 3 and 2 of 4; rouge2: 1 of 2 and 1 of 3; the longest common subsequence has 2 words.
    expected = {"rouge1": 100 * 4 / 7, "rouge2": 100 * 2 / 5, "rougeL": 100 * 4 / 7}
    assert rouge(rows, ("rouge1", "rouge2", "rougeL")) == pytest.approx(expected)


def test_words_are_stemmed():
    assert rouge([{"hypothesis": "Running dogs", "references": ["run dog"]}], ("rouge2",)) == {"rouge2": 100}


def test_best_reference_and_mean_over_rows():
    rows = [{"hypothesis": "a b", "references": ["c d", "a b"]}, {"hypothesis": "", "references": ["a"]}]
    assert rouge(rows, ("rouge1",)) == {"rouge1": 50}


def test_rouge_lsum_compares_sentences():
    # In the other order: one sentence at a time all words are found, along the whole text only half of them.
    rows = [{"hypothesis": "x y z. a b c.", "references": ["a b c\nx y z"]}]
    assert rouge(rows, ("rougeL", "rougeLsum")) == pytest.approx({"rougeL": 50, "rougeLsum": 100})


def test_sentences_keep_the_line_breaks_of_the_text():
    assert sentences("Mr. A left.\nB stayed.") == "Mr. A left.\nB stayed."
    assert sentences("A left. B stayed! Why?") == "A left.\nB stayed!\nWhy?"


def test_xsum_lead_agrees_with_the_evaluate_recipe():
    """The mean of rouge-score's F1 over real articles, taken by its own aggregator."""
    import json

    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import BootstrapAggregator

    with data_file("xsum/test_sample_1000.jsonl").open(encoding="utf-8") as file:
        articles = [json.loads(next(file)) for _ in range(50)]
    rows = [{"hypothesis": item["document"][:200], "references": [item["summary"]]} for item in articles]
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer, aggregator = RougeScorer(list(kinds), use_stemmer=True), BootstrapAggregator(n_samples=2)
    for row in rows:
        aggregator.add_scores(scorer.score(row["references"][0], row["hypothesis"]))
    means = {kind: [score.fmeasure for score in aggregator._scores[kind]] for kind in kinds}
    assert rouge(rows, kinds) == pytest.approx({kind: 100 * sum(f1) / len(f1) for kind, f1 in means.items()})
