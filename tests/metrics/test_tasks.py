import json

import pytest
from common import ROWS, data_file, e2e_rows, needs_java

from prefix_jax.errors import UserError
from prefix_jax.metrics import coco
from prefix_jax.metrics.perplexity import spelled
from prefix_jax.tasks import TASKS, score, webnlg

SEEN = {"hypothesis": "Agra Airport is in India.", "references": ["Agra Airport is in India."], "category": "Airport"}
UNSEEN = {"hypothesis": "A b c d e f.", "references": ["Alan Bean is an artist.", "b"], "category": "Artist"}

# The first text of each record as the output, the others as references. BLEU and NIST: to 12 digits those of another
# implementation, written from the E2E scorer's metrics/pymteval.py; BLEU also sacrebleu's. METEOR, ROUGE_L, CIDEr: to
# every digit those of pycocoevalcap 1.2 run by itself with Java 17. If they move, a library has changed: say so.
E2E_GOLDEN = {
    "devset.csv": {
        "BLEU": 59.953459442534154,
        "NIST": 8.578516297666535,
        "METEOR": 44.98183909676541,
        "ROUGE_L": 65.28351319176511,
        "CIDEr": 1.8542754607258303,
    },
    "testset_w_refs.csv": {
        "BLEU": 60.45619083952298,
        "NIST": 8.898831365878833,
        "METEOR": 45.6309311485148,
        "ROUGE_L": 63.81129068662674,
        "CIDEr": 1.8572240685162773,
    },
}


@pytest.mark.parametrize("name", E2E_GOLDEN)
def test_e2e_golden_without_java(name):
    expected = {kind: E2E_GOLDEN[name][kind] for kind in ("BLEU", "NIST")}
    assert score("e2e", e2e_rows(name), java=False) == pytest.approx(expected, rel=1e-12)


@needs_java
@pytest.mark.slow
@pytest.mark.parametrize("name", E2E_GOLDEN)
def test_e2e_golden(name):
    scores = score("e2e", e2e_rows(name))
    assert list(scores) == ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"]
    assert scores == pytest.approx(E2E_GOLDEN[name], rel=1e-12)


def test_e2e_blank_reference_does_not_exist():
    with_blank = [{**row, "references": ["", *row["references"], " "]} for row in ROWS]
    assert score("e2e", with_blank, java=False) == score("e2e", ROWS, java=False)


@needs_java
def test_webnlg_parts_by_category():
    scores = score("webnlg", [SEEN, UNSEEN, SEEN])
    parts = ("seen", "unseen", "all")
    assert list(scores) == [f"{kind}_{part}" for kind in ("BLEU", "METEOR", "TER") for part in parts]
    assert scores["BLEU_seen"] == pytest.approx(100)
    assert (scores["METEOR_seen"], scores["TER_seen"]) == (1, 0)
    assert scores["BLEU_unseen"] == 0
    # The output has 7 words, of which one is in place against "b"; its references have 6 and 1 words.
    assert scores["TER_unseen"] == pytest.approx(6 / 3.5)
    assert scores["TER_all"] == pytest.approx(6 / (3.5 + 2 * 6))


def test_webnlg_part_without_rows_has_no_scores():
    assert list(score("webnlg", [SEEN], java=False)) == ["BLEU_seen", "BLEU_all", "TER_seen", "TER_all"]


def test_webnlg_categories_are_those_of_the_data():
    entries = json.loads(data_file("webnlg2017/train.json").read_text(encoding="utf-8"))["entries"]
    assert sorted({record["category"] for entry in entries for record in entry.values()}) == list(webnlg.SEEN)
    entries = json.loads(data_file("webnlg2017/test.json").read_text(encoding="utf-8"))["entries"]
    categories = [record["category"] for entry in entries for record in entry.values()]
    assert sorted(set(categories)) == sorted(webnlg.SEEN + webnlg.UNSEEN)
    assert sum(category in webnlg.UNSEEN for category in categories) == 891


def test_webnlg_needs_a_known_category():
    with pytest.raises(UserError, match='Row 2 has no "category"'):
        score("webnlg", [SEEN, *ROWS], java=False)
    with pytest.raises(UserError, match='Row 1 has no "category"'):
        score("webnlg", [{**SEEN, "category": None}], java=False)
    with pytest.raises(UserError, match='no category "artist"; did you mean "Artist"'):
        score("webnlg", [{**SEEN, "category": "artist"}], java=False)


@pytest.mark.parametrize("task", ["webnlg", "dart"])
def test_only_the_first_three_references_count(task):
    row = {**SEEN, "references": ["x y z", "u v w", "q r s", SEEN["hypothesis"]]}
    three = {**row, "references": row["references"][:3]}
    assert score(task, [row], java=False) == score(task, [three], java=False)


def test_dart_missing_reference_is_an_empty_line():
    # Trap: with None in its place the second row's short output would pay a brevity penalty.
    rows = [
        {"hypothesis": "a b c d e", "references": ["a b c d e", "A B C D E"]},
        {"hypothesis": "f g h i", "references": ["f g h i j k l m n o"]},
    ]
    assert score("dart", rows, java=False) == pytest.approx({"BLEU": 100, "TER": 6 / 15})


def test_references_that_normalise_to_nothing():
    row = {"hypothesis": "a", "references": ["\N{PILE OF POO}"], "category": "City"}
    assert score("webnlg", [row], java=False)["TER_all"] == 1


def test_translation_and_text():
    rows = [{"hypothesis": "A b c d e.", "references": ["A b c d e. "]}, {"hypothesis": "x", "references": ["y", "z"]}]
    assert list(score("translation", rows)) == ["BLEU", "chrF", "TER"]
    assert score("translation", rows)["TER"] == pytest.approx(100 / 6)
    scores = score("text", rows)
    assert list(scores) == ["BLEU", "chrF", "rougeL", "exact_match"]
    assert (scores["rougeL"], scores["exact_match"]) == (50, 50)


def test_summaries():
    rows = [{"hypothesis": "A cat.", "references": ["A cat."]}]
    assert score("xsum", rows) == {"rouge1": 100, "rouge2": 100, "rougeL": 100}
    assert score("cnn_dm", rows) == {"rouge1": 100, "rouge2": 100, "rougeL": 100, "rougeLsum": 100}


@pytest.mark.parametrize("task", TASKS)
def test_names_units_and_java(task, monkeypatch):
    def no_java():
        raise UserError("no Java")

    monkeypatch.setattr(coco, "java", no_java)
    rows = [{**row, "category": "City"} for row in ROWS]
    if task == "glue_stsb":
        rows = [{"hypothesis": str(i), "references": [str(i * i)]} for i in range(4)]  # its texts are numbers
    if TASKS[task].plain_text:  # its outputs are likelihoods
        rows = [{"hypothesis": spelled(3.5, 4, 20), "references": ["a b c d"]}]
    if TASKS[task].chat:  # its outputs have likelihoods beside them
        rows = [{**row, "likelihood": spelled(3.5, 4, 20)} for row in rows]
    scores = score(task, rows, java=False)
    assert all(type(value) is float for value in scores.values())
    assert all(TASKS[task].format(name, value) for name, value in scores.items())
    kinds = {name.removesuffix("_seen").removesuffix("_all").removesuffix("_HasAns") for name in scores}
    assert kinds == set(TASKS[task].decimals) - set(TASKS[task].java)
    if TASKS[task].java:
        with pytest.raises(UserError, match="no Java"):
            score(task, rows)
    else:
        assert score(task, rows) == scores


def test_unknown_task_and_no_rows():
    with pytest.raises(UserError, match='"e2" is not a task.*; did you mean "e2e"'):
        score("e2", ROWS)
    with pytest.raises(UserError, match="no rows"):
        score("e2e", [])
    with pytest.raises(UserError, match='Row 2: "references" must be a list of strings, not a string'):
        score("text", [ROWS[0], {"hypothesis": "a", "references": "b"}])
