"""Sweeps through the real command line, killed and gone on with."""

import json
import signal
import time

import jax
import pytest

from prefix_jax.config import default_config
from prefix_jax.reporting.sweep_page import write_sweep
from prefix_jax.sweeping.rows import read_rows
from prefix_jax.sweeping.sweep import SweepOptions, sweep
from tests import runs, tiny

SWEEP = """

def sweep():
    for length in (1, 3):
        for seed in (1, 2):
            yield {{"prefix.length": length, "training.seed": seed}}
    yield {extra}
"""


@pytest.fixture
def recipe(tiny_models, tmp_path):
    def write(extra: str = '{"prefix.hidden": 8}', steps: int = 12):
        path = runs.write_recipe(tmp_path / "recipe", tiny_models["llama"], steps=steps)
        path.write_text(path.read_text() + SWEEP.format(extra=extra))
        return path

    return write


def states(workdir) -> dict[str, str]:
    return {row["name"]: row["status"] for row in json.loads((workdir / "sweep.json").read_text())["rows"]}


def test_a_killed_sweep_goes_on_and_repeats_nothing(recipe, tmp_path):
    workdir, path = tmp_path / "sweep", recipe(steps=40)
    words = ("--config", str(path), "--workdir", str(workdir), "--limit", "4")
    process = runs.start("sweep", *words, cache=tmp_path / "cache")
    first = workdir / "runs" / "length=1,seed=1"
    deadline = time.monotonic() + 240
    while runs.steps_written(first) < 8 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert set(states(workdir).values()) == {"waiting"}
    out, _ = runs.run("sweep", *words, cache=tmp_path / "cache")
    assert set(states(workdir).values()) == {"scored"} and len(states(workdir)) == 5
    assert "length  hidden  state" in out
    steps = [json.loads(line)["step"] for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    for name in ("report.html", "table.md", "runs/length=3,seed=2/report.html", "runs/hidden=8/tuned/prefix.json"):
        assert (workdir / name).is_file(), name
    before = {p: p.stat().st_mtime_ns for p in (workdir / "runs").rglob("*") if p.is_file()}
    runs.run("sweep", *words, cache=tmp_path / "cache")
    assert before == {p: p.stat().st_mtime_ns for p in (workdir / "runs").rglob("*") if p.is_file()}


def test_a_sweep_without_a_score_has_a_report(tmp_path):
    rows = [
        {"name": f"{length}{hidden}", "options": {"prefix.length": length, "prefix.hidden": hidden},
         "directory": "runs/x", "status": "waiting"}
        for length in (1, 2) for hidden in (1, 2, 3, 4)
    ]  # fmt: skip
    (tmp_path / "sweep.json").write_text(json.dumps({"rows": rows}))
    write_sweep(tmp_path)
    assert "8 runs" in (tmp_path / "report.html").read_text()


def test_compiled_programs_go_with_their_rows(tiny_models, tmp_path):
    """Otherwise a CPU's process has too many mappings of memory after some 150 rows, and Linux ends it."""
    config = default_config()
    config.model.source = str(tiny_models["gpt2"])
    config.data.update(task="text", path=str(tiny.save_rows(tmp_path / "rows.jsonl", 20)))
    config.prefix.reparameterisation = "none"
    config.training.update(steps=1, batch=2, evaluate_records=2, tensorboard=False)
    (tmp_path / "recipe.py").write_text("def sweep():\n    yield from ({'prefix.length': n} for n in (1, 2))\n")
    client = jax.devices()[0].client
    before = len(client.live_executables())
    rows = read_rows(str(tmp_path / "recipe.py"), config)
    state = sweep(rows, tmp_path / "sweep", SweepOptions(members=1, split=""), [])
    assert [state.status(row.name) for row in rows] == ["trained", "trained"]
    assert len(client.live_executables()) <= before


def test_a_row_that_fails_leaves_the_others_alone(recipe, tmp_path):
    workdir, path = tmp_path / "sweep", recipe(extra='{"data.path": "/nowhere.jsonl"}')
    words = ("--config", str(path), "--workdir", str(workdir), "--split=")
    out, err = runs.run("sweep", *words, cache=tmp_path / "cache", code=2)
    assert "1 of 5 rows failed" in err and "/nowhere.jsonl" in err
    assert sorted(states(workdir).values()) == ["failed", *["trained"] * 4]
    assert " ± " in (workdir / "table.md").read_text()


def test_only_the_rows_that_are_named_run(recipe, tmp_path):
    workdir, path = tmp_path / "sweep", recipe(steps=4)
    words = ("--config", str(path), "--workdir", str(workdir), "--split=")
    _, err = runs.run("sweep", *words, "--only=hidden=9", cache=tmp_path / "cache", code=2)
    assert 'no row has "hidden=9" in its name; the first is length=1,seed=1' in err
    _, err = runs.run("sweep", *words, "--only=hidden=8", cache=tmp_path / "cache")
    assert "stopped" not in err
    assert states(workdir) == {**dict.fromkeys(states(workdir), "waiting"), "hidden=8": "trained"}
    runs.run("sweep", *words[:-1], "--limit=1", "--only=hidden=8", cache=tmp_path / "cache")
    before = (workdir / "sweep.json").read_text()
    out, _ = runs.run("sweep", *words, "--only=hidden=9", "--plan", cache=tmp_path / "cache", code=2)
    assert out == "" and (workdir / "sweep.json").read_text() == before
    runs.run("sweep", *words[:-1], "--limit=2", "--only=seed=1", cache=tmp_path / "cache")
    assert states(workdir) == dict.fromkeys(states(workdir), "scored")
    assert json.loads((workdir / "sweep.json").read_text())["rows"][-1]["records"] == 1  # as it was
