"""Which runs look failed, from synthetic outputs, scores and losses."""

import pytest

from prefix_jax import verdict

LABELS = ["positive", "negative"] * 20
ONE = [[label] for label in LABELS]
QUESTIONS = [f"Was film {i} good?" for i in range(40)]
TEXTS = [f"Place {i} serves food by the river ." for i in range(6)]


def kinds(outputs, references, sources=None, scores=None, bare=None) -> list[str]:
    sources = sources or [f"input {i}" for i in range(len(outputs))]
    found = verdict.of_outputs(outputs, references, sources, scores or {}, bare, ("TER", "TER_all"))
    assert all(set(one) == {"finding", "detail"} and "\n" not in one["detail"] for one in found)
    return [one["finding"] for one in found]


def accuracy(outputs, references) -> dict[str, float]:
    right = sum(text in one for text, one in zip(outputs, references, strict=True))
    return {"exact_match": 100 * right / len(outputs)}


FAILED = {
    "one label for all": (["positive"] * 40, ONE, "outputs_alike"),
    "one label but for one": (["positive"] * 39 + ["negative"], ONE, "outputs_alike"),
    "below chance": (LABELS[:13] + ["???"] * 27, ONE, "not_above_majority"),
    "the commonest label of three in four": (["yes"] * 40, [["yes"]] * 30 + [["no"]] * 10, "not_above_majority"),
    "nothing": ([""] * 6, [[text] for text in TEXTS], "outputs_empty"),
    "nothing but white space": ([" \n"] * 40, ONE, "outputs_empty"),
    "nearly nothing": ([""] * 19 + ["x"], [[f"text {i}"] for i in range(20)], "outputs_empty"),
    "one text for all inputs": (["I do not know ."] * 6, [[text] for text in TEXTS], "outputs_alike"),
}


@pytest.mark.parametrize("name", FAILED)
def test_outputs_of_a_failed_run_are_found(name: str):
    outputs, references, expected = FAILED[name]
    assert expected in kinds(outputs, references, scores=accuracy(outputs, references))


HEALTHY = {
    "all right": (LABELS, ONE),
    "most right": (LABELS[:36] + ["positive"] * 4, ONE),
    "a few records with one answer": (["yes"] * 3, [["yes"]] * 3),
    "many records with one answer": (["yes"] * 40, [["yes"]] * 40),
    "few records, few labels": (["yes", "yes", "yes", "yes"], [["yes"], ["no"], ["yes"], ["yes"]]),
    "all wrong and each its own": ([f"wrong {i}" for i in range(6)], [[text] for text in TEXTS]),
    "empty where nothing is right": ([""] * 6, [["", "none"]] * 6),
    "one record": (["a text"], [["another text"]]),
    "two records alike": (["a text", "a text"], [["one"], ["two"]]),
    "numbers": ([str(i) for i in range(30)], [[str(i)] for i in range(30)]),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_outputs_raise_no_alarm(name: str):
    outputs, references = HEALTHY[name]
    assert kinds(outputs, references, scores=accuracy(outputs, references)) == []


def test_chance_is_known_where_records_have_choices():
    """That of the majority label where all have the same, else that of a random choice."""
    classes = [f"class {i}" for i in range(30)]
    right = [*classes, *["class 0"] * 10]
    of = lambda outputs, references, choices: [
        one["finding"]
        for one in verdict.of_outputs(outputs, [[text] for text in references], QUESTIONS, {}, None, (), choices)
    ]
    shifted = [*classes[1:], "class 0", *classes[1:11]]
    assert of(shifted, right, [classes] * 40) == ["not_above_majority"] and of(shifted, right, []) == []
    assert of([*classes[:20], *shifted[20:]], right, [classes] * 40) == []
    own = [(f"answer {i}", f"wrong {i}", f"other {i}", f"no {i}") for i in range(40)]
    answers = [one[0] for one in own]
    assert of([own[i][i >= 10] for i in range(40)], answers, own) == ["not_above_chance"]
    assert of([own[i][i >= 11] for i in range(40)], answers, own) == []


def test_a_copy_of_the_input_is_found_unless_it_is_right():
    assert kinds(TEXTS, [["x"]] * 6, sources=TEXTS) == ["outputs_copy_input"]
    assert kinds(TEXTS, [[text] for text in TEXTS], sources=TEXTS) == []


@pytest.mark.parametrize(
    ("after", "before", "failed"),
    [
        ({"BLEU": 10.0}, {"BLEU": 12.0}, True),
        ({"BLEU": 12.0}, {"BLEU": 12.0}, True),
        ({"BLEU": 12.1}, {"BLEU": 12.0}, False),
        ({"TER": 0.5}, {"TER": 0.4}, True),
        ({"TER": 0.4}, {"TER": 0.5}, False),
        ({"TER_all": 0.0}, {"TER_all": 0.0}, False),
        ({"exact_match": 100.0}, {"exact_match": 100.0}, False),
        ({"exact_match": 0.0}, {"exact_match": 0.0}, True),
        ({"exact_match": 50.0}, {}, False),
        ({"exact_match": 60.0, "chrF": 1.0}, {"exact_match": 50.0, "chrF": 90.0}, False),  # the main score decides
    ],
)
def test_the_main_score_is_compared_with_the_bare_models(after, before, failed: bool):
    assert ("not_above_bare" in kinds(TEXTS, [[text] for text in TEXTS], scores=after, bare=before)) is failed


@pytest.mark.parametrize(
    ("losses", "bare", "best_kept", "expected"),
    [
        ([3.0, 2.0, 1.0], 4.0, False, []),
        ([3.0, 2.0, 1.0], None, False, []),
        ([], 4.0, False, []),
        ([5.0], 4.0, False, ["loss_above_bare"]),
        ([4.0], 4.0, False, []),
        ([1.0, 3.0], 4.0, False, ["loss_above_best"]),
        ([1.0, 9.0], 4.0, False, ["loss_above_bare", "loss_above_best"]),
        ([1.0, 9.0], 4.0, True, []),  # the values of the best step were kept
        ([5.0, 9.0], 4.0, True, ["loss_above_bare"]),
        ([0.02, 0.04], 4.0, False, []),
        ([1.0, 1.2], 4.0, False, []),
        ([2.0, float("nan")], 4.0, False, []),
    ],
)
def test_losses_of_a_failed_run_are_found(losses, bare, best_kept, expected):
    steps = [(10 * (i + 1), loss) for i, loss in enumerate(losses)]
    assert [one["finding"] for one in verdict.of_training(steps, bare, best_kept)] == expected


def test_findings_are_one_line():
    found = verdict.of_training([(1, 1.0), (2, 9.0)], 4.0)
    assert verdict.sentence(found).count("\n") == 0 and "far above the run's best, 1 at step 1" in verdict.sentence(
        found
    )
