"""The table of README.md is what the studies have kept, beside the paper's numbers."""

import dataclasses
import json

import pytest

from experiments import overview, published, results


def test_the_table_is_what_the_studies_have_kept():
    if not published.tables():
        pytest.skip("$PREFIX_JAX_DATA/paper/tables.json is absent")
    assert overview.table() in overview.README.read_text(encoding="utf-8")


def test_cells_are_means_over_seeds_beside_the_papers_number(tmp_path, monkeypatch):
    kept = results.read(overview.FOLDER / overview.COLUMNS[0].study / results.FILE_NAME)
    prefix = next(result for result in kept if result.option("method") == "prefix" and result.scores)
    others = [dataclasses.replace(prefix, scores={"BLEU": bleu}) for bleu in (60.0, 64.0)]
    (tmp_path / overview.COLUMNS[0].study).mkdir()
    text = "".join(json.dumps(dataclasses.asdict(result)) + "\n" for result in others)
    (tmp_path / overview.COLUMNS[0].study / results.FILE_NAME).write_text(text)
    monkeypatch.setattr(overview, "FOLDER", tmp_path)
    monkeypatch.setattr(overview.naming, "main_table", lambda result: {"BLEU": 69.7})
    assert overview.cells(overview.COLUMNS[0]) == {"prefix": "62.0 ± 2.8 / 69.7"}
    assert overview.cells(overview.COLUMNS[1]) == {}
