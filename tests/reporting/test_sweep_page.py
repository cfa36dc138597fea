"""The table and the page of a sweep, from files alone."""

import json

import pytest

from prefix_jax.reporting import sweep


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
    marked = sweep.page(found).split('class="number better"')[1]
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
    best = [cell for cell in sweep.page(found).split('class="number better"')[1:] if cell.startswith(">0.")]
    assert [cell[:6] for cell in best] == [">0.250"]
