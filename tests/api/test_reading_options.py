"""Options of how rows are read, from Python: templates, empty rows, and a validation split drawn from training."""

import json
import unicodedata

import pytest

import prefix_jax as pj
from tests.api.conftest import PAIRS, QUICK

ROWS = [{"title": f"name {i}", "body": i, "text": target} for i, (_, target) in enumerate(PAIRS)]
OPTIONS = {
    **QUICK,
    "data.source_format": "{title}: {body}",
    "data.empty": "skip",
    "data.unicode": "NFC",
    "data.validation_fraction": 0.25,
    "training.evaluate_records": 0,
}


def test_rows_in_memory_are_read_as_those_of_a_file(lm, tmp_path, capsys):
    rows = [*ROWS, {"title": "x", "body": None, "text": "y"}]
    found = pj.tune(lm, rows, pj.Prefix(length=2, hidden=8), steps=1, target="text", options=OPTIONS)
    said = capsys.readouterr().err
    assert "1 left out: rows with an empty field" in said and "drawn from 24 training records" in said
    assert "validation_loss" in found.history.columns
    (tmp_path / "x_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [tmp_path / "x_train.jsonl"]
    again = pj.tune(lm, files, pj.Prefix(length=2, hidden=8), steps=1, target="text", options=OPTIONS)
    assert again.history["validation_loss"].dropna().tolist() == found.history["validation_loss"].dropna().tolist()
    decomposed = unicodedata.normalize("NFD", "Café: 1")
    assert found.generate({"title": decomposed[:-3], "body": 1}) == found.generate(decomposed)
    assert found.evaluate(ROWS[:2]).sources == ["name 0: 0", "name 1: 1"]
    assert found.evaluate(PAIRS[:2]).sources == [source for source, _ in PAIRS[:2]]


def test_without_validation_records_the_sentence_names_the_option(lm):
    with pytest.raises(pj.UserError, match="no validation records; give them as validation, or set data.validation_fr"):
        pj.tune(lm, PAIRS, steps=1, options={"training.evaluate_every": 1})
