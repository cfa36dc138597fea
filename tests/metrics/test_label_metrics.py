"""Metrics of labels, beside those of scikit-learn."""

import numpy as np
import pytest

from prefix_jax import tasks
from prefix_jax.metrics import classification
from prefix_jax.metrics.languages import language_of
from prefix_jax.metrics.metric import How

HOW = How(False, language_of("en", "", []))
LABELS = ("negative", "neutral", "positive", "unused")


def rows(seed: int, count: int = 60, outside: float = 0.0) -> list:
    generator = np.random.default_rng(seed)
    right = generator.choice(LABELS[:3], count, p=[0.6, 0.3, 0.1])
    given = np.where(generator.random(count) < 0.6, right, generator.choice(LABELS[:3], count))
    given = np.where(generator.random(count) < outside, "who knows", given)
    return [
        {"hypothesis": f" {b} ", "references": [str(a)], "choices": LABELS} for a, b in zip(right, given, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("outside", [0.0, 0.2])
def test_as_scikit_learn(seed, outside):
    metrics = pytest.importorskip("sklearn.metrics")
    given = rows(seed, outside=outside)
    right, said = [row["references"][0] for row in given], [row["hypothesis"].strip() for row in given]
    known = sorted({*right, *said} - {"who knows"})
    found = classification.of_labels(given, HOW)
    expected = {
        "accuracy": metrics.accuracy_score(right, said),
        "balanced_accuracy": metrics.recall_score(right, said, labels=sorted(set(right)), average="macro"),
        "macro_f1": metrics.f1_score(right, said, labels=known, average="macro"),
        "micro_f1": metrics.f1_score(right, said, labels=known, average="micro"),
        "mcc": metrics.matthews_corrcoef(right, said),
    }
    assert found.scores == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=1e-9)
    labels = found.details["confusion"]["labels"]
    assert labels == [*known, "(other)"][: len(labels)] and ("(other)" in labels) == bool(outside)
    said = [one if one in known else "(other)" for one in said]
    assert found.details["confusion"]["counts"] == metrics.confusion_matrix(right, said, labels=labels).tolist()
    f1 = classification.f1_of("neutral")(given, HOW)
    assert f1 == pytest.approx(100 * metrics.f1_score(right, said, labels=["neutral"], average="macro"))


def test_one_label_alone_has_no_correlation():
    given = [{"hypothesis": "yes", "references": ["yes"]}] * 3
    found = tasks.measure("classification", given)
    assert found.scores == {"accuracy": 100, "balanced_accuracy": 100, "macro_f1": 100, "micro_f1": 100}
    assert "two labels" in found.unmeasured["mcc"]


def test_a_label_of_several_references():
    given = [{"hypothesis": "a", "references": ["b", "a"]}, {"hypothesis": "c", "references": ["b", "a"]}]
    assert classification.labels_of(given) == (["a", "b"], ["a", "c"])
