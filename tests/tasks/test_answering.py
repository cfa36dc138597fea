"""Tasks whose answers are chosen, extracted or computed: their readers and their metrics."""

import gzip
import json

import pytest

from prefix_jax import tasks
from prefix_jax.errors import UserError
from prefix_jax.metrics.answers import NO_ANSWER
from prefix_jax.tasks import Columns, glue


def save(folder, *rows, split="train", suffix=".jsonl"):
    path = folder / f"{split}{suffix}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(task, folder, *rows, columns=None):
    return tasks.inputs(task, "train", save(folder, *rows), columns or Columns())


QUESTION = {"question": "Which is a bird?", "choices": ["cat", "heron", "2"]}


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({**QUESTION, "answer": 1}, "heron"),
        ({**QUESTION, "answer": "B"}, "heron"),
        ({**QUESTION, "answer": "heron"}, "heron"),
        ({**QUESTION, "answer": "1"}, "heron"),
        ({**QUESTION, "answer": "2"}, "2"),  # a choice's text comes first
        ({**QUESTION, "answerKey": 1.0}, "heron"),
        ({"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, "y"),
    ],
)
def test_multiple_choice_answers(tmp_path, row, answer):
    (found,) = read("multiple_choice", tmp_path, row)
    assert (found.target, found.references) == (answer, (answer,)) and answer in found.choices


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**QUESTION, "answer": 3}, "none of its 3 choices"),
        ({**QUESTION, "answer": "robin"}, "none of its 3 choices"),
        ({**QUESTION, "answer": True}, "none of its 3 choices"),
        (QUESTION, 'no column "answer"'),
        ({"question": "q", "choices": ["a", "a"], "answer": 0}, "equal"),
        ({"question": "q", "choices": "a,b", "answer": 0}, "no list of texts"),
    ],
)
def test_multiple_choice_rows_that_are_wrong(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        read("multiple_choice", tmp_path, row)


PAIR = {"sentence1": "A b.", "sentence2": "C d."}
ROWS = {
    "glue_cola": ({"sentence": "Me go."}, "unacceptable", "cola sentence: Me go."),
    "glue_sst2": ({"sentence": "Dull."}, "negative", "sst2 sentence: Dull."),
    "glue_mrpc": (PAIR, "not_equivalent", "mrpc sentence1: A b. sentence2: C d."),
    "glue_qqp": ({"question1": "A?", "question2": "B?"}, "not_duplicate", "qqp question1: A? question2: B?"),
    "glue_mnli": ({"premise": "A.", "hypothesis": "B."}, "entailment", "mnli premise: A. hypothesis: B."),
    "glue_qnli": ({"question": "A?", "sentence": "B."}, "entailment", "qnli question: A? sentence: B."),
    "glue_rte": (PAIR, "entailment", "rte sentence1: A b. sentence2: C d."),
    "glue_wnli": (PAIR, "not_entailment", "wnli sentence1: A b. sentence2: C d."),
    "superglue_boolq": ({"question": "a", "passage": "B."}, "False", "boolq question: a passage: B."),
    "superglue_cb": ({"premise": "A.", "hypothesis": "B."}, "entailment", "cb premise: A. hypothesis: B."),
    "superglue_rte": ({"premise": "A.", "hypothesis": "B."}, "entailment", "rte premise: A. hypothesis: B."),
    "superglue_wic": ({"word": "go", **PAIR}, "False", "wic word: go sentence1: A b. sentence2: C d."),
    "superglue_wsc": (
        {"span1_text": "Al", "span2_text": "he", "text": "Al ran; he fell."},
        "False",
        "wsc span1_text: Al span2_text: he text: Al ran; he fell.",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_suites_of_benchmarks(tmp_path, name):
    row, word, source = ROWS[name]
    numbered, named = read(name, tmp_path, {**row, "label": 0}, {**row, "label": word})
    assert numbered.source == named.source == source and numbered.target == named.target == word
    assert numbered.choices[0] == word
    scores = tasks.score(
        name, [{"hypothesis": a, "references": [b]} for a in numbered.choices for b in numbered.choices]
    )
    assert list(scores) == [metric.name for metric in tasks.find(name).metrics]
    with pytest.raises(UserError, match="not published"):
        read(name, tmp_path, {**row, "label": -1})


def test_every_row_of_a_suite_is_a_task():
    names = {name for name in tasks.TASKS if "glue_" in name}
    assert len(names) == len(glue.GLUE) + len(glue.SUPERGLUE) == 17
    others = {"glue_stsb", "superglue_copa", "superglue_multirc", "superglue_record"}
    assert names == {*ROWS, *others}


def test_similarity_is_a_number(tmp_path):
    found = read("glue_stsb", tmp_path, {**PAIR, "label": 3.25}, {**PAIR, "label": 0.49})
    assert [record.target for record in found] == ["3.2", "0.4"] and len(found[0].choices) == 26
    rows = [
        {"hypothesis": a, "references": [a, b]} for a, b in (("1.0", "1.1"), ("2.0", "1.9"), ("x", "0.2"), ("5.0", "4"))
    ]
    stats = pytest.importorskip("scipy.stats")
    given, wanted = [1.0, 2.0, 0.0, 5.0], [1.1, 1.9, 0.2, 4.0]
    expected = {"pearson": stats.pearsonr(given, wanted)[0], "spearman": stats.spearmanr(given, wanted)[0]}
    assert tasks.score("glue_stsb", rows) == pytest.approx({name: 100 * x for name, x in expected.items()})


def test_alternatives_entities_and_judged_answers(tmp_path):
    row = {"premise": "It rained.", "question": "effect", "choice1": "Wet.", "choice2": "Dry.", "label": 1}
    (found,) = read("superglue_copa", tmp_path, row)
    assert found.target == "Dry." and found.choices == ("Wet.", "Dry.")
    row = {"query": "@placeholder won", "passage": "P.", "entities": ["A", "B", "A"], "answers": ["B", "A"]}
    (found,) = read("superglue_record", tmp_path, row)
    assert found.choices == ("A", "B") and found.references == ("B", "A")
    rows = [
        {"paragraph": "P.", "question": q, "answer": a, "label": i % 2} for i, (q, a) in enumerate(("xa", "xb", "yc"))
    ]
    found = read("superglue_multirc", tmp_path, *rows)
    assert found[0].category == found[1].category != found[2].category
    given = [
        {"hypothesis": text, "references": [record.target], "category": record.category}
        for text, record in zip(("False", "True", "True"), found, strict=True)
    ]
    # Of two questions one is right in all answers; of two answers judged true, one is.
    assert tasks.score("superglue_multirc", given) == pytest.approx({"F1a": 100 * 2 / 3, "EM": 50.0})


# (output, answers). The figures are those of SQuAD's official functions (`evaluate-v2.0.py`, as transformers had them)
# for all of these, and for those with an answer but the last.
ANSWERS = [
    ("The Norman Conquest.", ["Norman conquest", "the conquest"]),
    ("in 1066, by the sea", ["1066", "year 1066"]),
    (NO_ANSWER, []),
    ("Paris", []),
    ("Unanswerable ", ["London"]),
    ("a cat", ["the cat!", "cats"]),
    ("Duke  William of normandy", ["William", "Duke William II"]),
    ("the", ["the", "x y"]),
]

FIGURES = (37.500000, 49.642857, 33.333333, 49.523810, 50.000000, 50.000000)
FIRST = (40.000000, 59.428571)


def test_squad_as_the_official_functions():
    rows = [{"hypothesis": text, "references": answers or [NO_ANSWER]} for text, answers in ANSWERS]
    expected = dict(zip(("EM", "F1", "EM_HasAns", "F1_HasAns", "EM_NoAns", "F1_NoAns"), FIGURES, strict=True))
    assert tasks.score("squad_v2", rows) == pytest.approx(expected)
    rows = [row for row in rows[:7] if row["references"] != [NO_ANSWER]]
    assert tasks.score("squad", rows) == pytest.approx(dict(zip(("EM", "F1"), FIRST, strict=True)))


def test_squad_is_read_from_rows_and_from_its_own_files(tmp_path):
    row = {"context": "C.", "question": "Q?", "answers": {"text": ["a", "a", "b"], "answer_start": [0, 0, 1]}}
    (found,) = read("squad", tmp_path, row)
    assert found.source == "question: Q? context: C." and found.references == ("a", "b")
    (tmp_path / "train.jsonl").unlink()
    qas = [{"id": "1", "question": "Q?", "answers": [{"text": "a"}]}, {"id": "2", "question": "R?", "answers": []}]
    whole = {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "C.", "qas": qas}]}]}
    (tmp_path / "train.json").write_text(json.dumps(whole))
    records = tasks.inputs("squad_v2", "train", str(tmp_path))
    assert [record.target for record in records] == ["a", NO_ANSWER]
    with pytest.raises(UserError, match='question "2" .* has no answer; .*squad_v2'):
        tasks.inputs("squad", "train", str(tmp_path))


def official(answered: bool, version: str) -> dict:
    """Returns a file as SQuAD's site publishes it."""
    span = {"text": "Caen", "answer_start": 3}
    qas = [{"id": f"{version}-1", "question": "Where?", "answers": [span, span], "is_impossible": False}]
    if not answered:
        qas.append({"id": "2", "question": "Why?", "answers": [], "plausible_answers": [span], "is_impossible": True})
    paragraphs = [{"context": f"In Caen ({version}).", "qas": qas}, {"context": "Caen.", "qas": qas[:1]}]
    return {"data": [{"title": "Normans", "paragraphs": paragraphs}], "version": version}


def test_squads_files_under_their_own_names(tmp_path):
    """Both versions in one folder, one of them compressed: a file names its version's other split."""
    for version in ("v1.1", "v2.0"):
        for split in ("train", "dev"):
            path = tmp_path / f"{split}-{version}.json"
            path.write_text(json.dumps(official(version == "v1.1", version)))
    (tmp_path / "train-v2.0.json.gz").write_bytes(gzip.compress((tmp_path / "train-v2.0.json").read_bytes()))
    for task, version, file, wanted in (
        ("squad", "v1.1", "train-v1.1.json", ["Caen", "Caen"]),
        ("squad_v2", "v2.0", "train-v2.0.json", ["Caen", NO_ANSWER, "Caen"]),
        ("squad_v2", "v2.0", "train-v2.0.json.gz", ["Caen", NO_ANSWER, "Caen"]),
    ):
        for split in ("train", "validation"):
            records = tasks.inputs(task, split, str(tmp_path / file))
            assert [record.target for record in records] == wanted, (file, split)
            assert records[0].source == f"question: Where? context: In Caen ({version})."
    with pytest.raises(UserError, match="train-v2.0.json"):
        tasks.inputs("squad", "train", str(tmp_path))  # which version is not clear


def test_final_numbers():
    answer = "He has 1,000 + 8. So 1,008.\n#### 1,008"
    outputs = ["x\n#### 1008", "It is 1,008.00 in all.", "#### 1007", "no number", "Of 3, he keeps $1,008"]
    rows = [{"hypothesis": text, "references": [answer]} for text in outputs]
    assert tasks.score("gsm8k", rows) == {"strict_match": 20.0, "flexible_match": 60.0}


def test_distinct_counts_the_grams_of_all_outputs():
    rows = [{"hypothesis": text, "references": ["x"]} for text in ("a b a", "a b c", "")]
    assert tasks.score("text", rows, metrics="distinct_1,distinct_2") == {"distinct_1": 50.0, "distinct_2": 75.0}
