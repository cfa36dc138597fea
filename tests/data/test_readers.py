"""The published data sets, against the counts they were published with and the official files beside them."""

import csv
import json
import re

import pytest

from prefix_jax import tasks
from prefix_jax.tasks import dart, e2e, webnlg


@pytest.mark.parametrize(
    ("task", "split", "texts", "inputs"),
    [
        ("e2e", "train", 42_061, 4_862),
        ("e2e", "validation", 4_672, 547),
        ("e2e", "test", 4_693, 630),
        ("webnlg", "train", 18_025, None),
        ("webnlg", "validation", 2_268, 872),
        ("webnlg", "test", 4_928, 1_862),
        ("dart", "train", 62_659, 30_438),
        ("dart", "validation", 6_980, 2_768),
        ("dart", "test", 12_551, 5_097),
        ("xsum", "test", 1_000, 1_000),
    ],
)
def test_counts_are_the_published_ones(data_home, task, split, texts, inputs):
    pairs = tasks.pairs(task, split)
    assert len(pairs) == texts
    assert len({record.id for record in pairs}) == texts
    assert all(record.target == record.target.strip() != "" and record.source.strip() for record in pairs)
    grouped = tasks.inputs(task, split)
    assert inputs is None or len(grouped) == inputs
    assert sum(len(record.references) for record in grouped) == texts


def test_e2e_official_csv_linearises_to_the_papers_files(data_home):
    folder = data_home / "e2e"
    for split, file in (("train", "trainset.csv"), ("validation", "devset.csv"), ("test", "testset_w_refs.csv")):
        official = e2e.read(folder / file, split)
        assert [r.source for r in official] == [r.source for r in tasks.pairs("e2e", split)]
        with (folder / file).open(newline="") as handle:
            assert [r.target for r in official] == [row[1].strip() for row in list(csv.reader(handle))[1:]]


def test_e2e_inputs_keep_every_reference_in_order(data_home):
    first = tasks.inputs("e2e", "test")[0]
    lines = (data_home / "e2e" / "src1_test.txt").read_text().split("\n")
    wanted = [line.split("||")[1].strip() for line in lines if line.split("||")[0] == first.source]
    assert list(first.references) == wanted
    assert len(wanted) > 1


def test_webnlg_seen_and_unseen(data_home):
    records = tasks.inputs("webnlg", "test")
    assert sum(r.category in webnlg.SEEN for r in records) == 971
    assert sum(r.category in webnlg.UNSEEN for r in records) == 891
    assert all(r.category in webnlg.SEEN for r in tasks.pairs("webnlg", "train"))
    assert records[0].source.startswith(" | Abilene_Regional_Airport : cityServed : ")


def test_webnlg_training_leaves_out_texts_marked_to_fix(data_home):
    entries = json.loads((data_home / "webnlg2017" / "train.json").read_text())["entries"]
    entry = [next(iter(e.values())) for e in entries]
    marked = {text["lex"].strip() for e in entry for text in e["lexicalisations"] if text["comment"] != "good"}
    good = {text["lex"].strip() for e in entry for text in e["lexicalisations"] if text["comment"] == "good"}
    assert not (marked - good) & {r.target for r in tasks.pairs("webnlg", "train")}
    assert len(marked - good) > 50


def test_dart_inputs_are_the_official_references_line_for_line(data_home):
    """The scorer's files hold an item a line, tokenised and lower-cased; a missing reference is an empty line."""
    records = tasks.inputs("dart", "test")
    same = total = 0
    for k in range(3):
        lines = (data_home / "dart" / f"all-delex-reference{k}.lex").read_text().split("\n")
        for record, line in zip(records, lines, strict=False):
            ours = record.references[k] if k < len(record.references) else ""
            assert bool(ours) == bool(line.strip()), record.id
            same += _letters(ours) == _letters(line)
            total += 1
    assert same / total > 0.97


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def test_dart_source_is_the_papers():
    triples = [["Mars Hill", "JOINED", "1973"], ["Mars Hill", "LOCATION", "North Carolina"]]
    assert dart.linearise(triples) == "Mars Hill : joined : 1973 | Mars Hill : location : North Carolina"


def test_hub_forms_give_the_records_of_the_files(data_home):
    """The hub's columns, filled from the files, must lead to the same inputs."""
    items = json.loads((data_home / "dart" / "dart-v1.1.1-full-dev.json").read_text())
    rows = []
    for item in items:
        notes = {key: [note[key] for note in item["annotations"]] for key in ("source", "text")}
        rows.append(("row", {"tripleset": item["tripleset"], "annotations": notes}))
    assert dart.from_rows(rows, "validation") == tasks.pairs("dart", "validation")

    rows = []
    for wrapped in json.loads((data_home / "webnlg2017" / "test.json").read_text())["entries"]:
        entry = next(iter(wrapped.values()))
        triples = [f"{t['subject']} | {t['property']} | {t['object']}" for t in entry["modifiedtripleset"]]
        lex = {
            key: [text[name] for text in entry["lexicalisations"]] for key, name in (("text", "lex"), ("comment",) * 2)
        }
        row = {"category": entry["category"], "modified_triple_sets": {"mtriple_set": [triples]}}
        rows += [
            ("row", row | {"lex": lex}),
            ("row", row | {"lex": {"text": [], "comment": []}}),
            ("row", row | {"lex": lex}),
        ]
    assert webnlg.from_rows(rows, "test") == tasks.pairs("webnlg", "test")
