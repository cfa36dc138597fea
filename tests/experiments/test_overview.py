"""The tables of README.md and docs/results.md are what was kept, beside the paper's numbers."""

import dataclasses
import json

import pytest

from experiments import overview, published, results


def test_the_tables_are_what_was_kept():
    if not published.tables():
        pytest.skip("$PREFIX_JAX_DATA/paper/tables.json is absent")
    assert overview.whole_test_set() in overview.README.read_text(encoding="utf-8")
    assert overview.table() in overview.PAGE.read_text(encoding="utf-8")


def test_cells_are_means_over_seeds_beside_the_papers_number(tmp_path, monkeypatch):
    first = overview.COLUMNS[0]
    kept = results.read(overview.FOLDER / first.study / results.FILE_NAME)
    prefix = next(r for r in kept if (r.option("method"), r.option("data.task")) == ("prefix", first.task) and r.scores)
    others = [dataclasses.replace(prefix, scores={"BLEU": bleu}) for bleu in (60.0, 64.0)]
    (tmp_path / first.study).mkdir()
    text = "".join(json.dumps(dataclasses.asdict(result)) + "\n" for result in others)
    (tmp_path / first.study / results.FILE_NAME).write_text(text)
    monkeypatch.setattr(overview, "FOLDER", tmp_path)
    monkeypatch.setattr(overview.naming, "main_table", lambda result: {"BLEU": 69.7})
    assert overview.cells(first) == {"prefix": "62.0 ± 2.8 / 69.7"}
    assert overview.cells(overview.COLUMNS[1]) == {}
