"""The table and the page of a sweep, from files alone."""

import json
import re

import pytest

from prefix_jax.reporting import sweep, sweep_page
from tests import report_runs


def write(workdir, scores: list[float], about: dict):
    """Writes a sweep of runs that differ in prefix length and have one score each."""
    rows = []
    for length, score in enumerate(scores, 1):
        directory = f"runs/length={length}"
        (workdir / directory).mkdir(parents=True)
        entry = {"tuned": {"edits": score}, "metrics": about}
        (workdir / directory / "scores.json").write_text(json.dumps({"test": entry}))
        row = {"name": f"length={length}", "options": {"prefix.length": length}, "directory": directory}
        rows.append({**row, "status": "scored", "scores": {"edits": score}})
    (workdir / "sweep.json").write_text(json.dumps({"rows": rows, "split": "test", "command": "python"}))
    return workdir


@pytest.mark.parametrize(("higher", "best"), [(True, 2), (False, 1)])
def test_the_best_row_follows_the_direction_of_a_users_metric(higher, best, tmp_path):
    about = {"edits": {"decimals": 3, "higher_is_better": higher}}
    found = sweep.read_sweep(write(tmp_path, [1.23456, 2.0], about))
    assert "1.235" in sweep.sweep_table(found)
    marked = sweep_page.page(found).split('class="number better"')[1]
    assert marked.startswith(">1.235" if best == 1 else ">2.000")


def test_forgetting_is_a_column_of_a_sweep_whose_runs_have_it(tmp_path):
    write(tmp_path, [1.0, 2.0], {})
    assert "forgetting" not in sweep.sweep_table(sweep.read_sweep(tmp_path))
    for length, change in ((1, 0.5), (2, 0.25)):
        path = tmp_path / f"runs/length={length}" / "scores.json"
        entry = json.loads(path.read_text())["test"]
        path.write_text(json.dumps({"test": {**entry, "forgetting": {"change": change}}}))
    found = sweep.read_sweep(tmp_path)
    assert found.metrics == ["edits", "forgetting"] and "0.250" in sweep.sweep_table(found)
    best = [cell for cell in sweep_page.page(found).split('class="number better"')[1:] if cell.startswith(">0.")]
    assert [cell[:6] for cell in best] == [">0.250"]


def test_the_title_names_method_model_and_data(tmp_path):
    found = sweep.read_sweep(report_runs.write_sweep(tmp_path / "folder"))
    assert sweep_page.title(found) == "Prefix tuning of flan-t5-small on e2e by prefix length, learning rate"
    assert "<title>Prefix tuning of flan-t5-small on e2e" in sweep_page.page(found)
    changed = report_runs.record()
    changed["config"]["model"]["source"] = "/models/t5-base"
    first = tmp_path / "folder" / found.record["rows"][0]["directory"]
    (first / "config.json").write_text(json.dumps(changed))
    (tmp_path / "folder" / found.record["rows"][1]["directory"] / "config.json").write_text("{")
    assert sweep_page.title(found).startswith("Prefix tuning of 2 models on e2e")
    assert sweep_page.title(sweep.read_sweep(write(tmp_path / "bare", [1.0, 2.0], {}))) == "Sweep by prefix length"


def test_charts_of_percent_have_one_scale_that_ends_at_100(tmp_path):
    figures = sweep_page.sweep_figures(sweep.read_sweep(report_runs.write_sweep(tmp_path)))
    assert [figure.name for figure in figures] == ["BLEU", "exact_match"]
    ticks = [re.findall(r'text-anchor="end">([\d,.]+)<', figure.chart) for figure in figures]
    assert ticks[0] == ticks[1] and float(ticks[0][-1]) == 100 and float(ticks[0][0]) <= 40
    assert figures[0].told == "Bars: one standard deviation over seeds."


def test_lines_that_cannot_be_told_apart_have_charts_of_one_scale(tmp_path):
    report_runs.write_sweep(tmp_path, seeds=1)
    record = json.loads((tmp_path / "sweep.json").read_text())
    for number, row in enumerate(record["rows"]):
        row["options"]["prefix.hidden"] = number % 4
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    figures = sweep_page.sweep_figures(sweep.read_sweep(tmp_path))
    assert len(figures) > len(sweep_page.LINES)
    assert len({tuple(re.findall(r'text-anchor="end">([\d,.]+)<', figure.chart)) for figure in figures}) == 1
    assert len({figure.name for figure in figures}) == len(figures)
