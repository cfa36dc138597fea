"""Rows of a sweep whose runs look failed are marked in its table and its report."""

import json

from prefix_jax.reporting.sweep import read_sweep, sweep_table
from prefix_jax.reporting.sweep_page import write_sweep


def test_a_row_that_looks_failed_is_marked(tmp_path):
    verdict = [{"finding": "outputs_alike", "detail": "all 40 outputs are alike"}]
    rows = [
        {"name": f"seed={i}", "options": {"training.seed": i, "prefix.length": i}, "directory": f"runs/{i}"}
        | {"status": "scored", "scores": {"exact_match": 50.0 * i, "BLEU": None}}
        for i in (1, 2)
    ]
    rows[0]["verdict"] = verdict
    (tmp_path / "sweep.json").write_text(json.dumps({"rows": rows, "split": "test", "command": "x"}))
    table = sweep_table(read_sweep(tmp_path)).splitlines()
    assert "scored (looks failed)" in table[2] and "looks failed" not in table[3] and "BLEU" not in table[0]
    write_sweep(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "2 of them done" in page and "this run looks failed: all 40 outputs are alike" in page
