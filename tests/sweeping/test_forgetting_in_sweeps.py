"""Forgetting in sweeps and in Python."""

import json

import pytest

from prefix_jax import api
from prefix_jax.errors import UserError
from prefix_jax.sweeping.rows import read_rows
from prefix_jax.sweeping.sweep import SweepOptions, sweep
from tests import runs

ROWS = """

def sweep():
    yield {"prefix.length": 3}
"""
TEXT = "The harbour was quiet, and a Thai place closed. " * 12


@pytest.fixture(scope="module")
def swept(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forgotten")
    path = runs.write_recipe(folder, tiny_models["gpt2"], steps=1)
    path.write_text(path.read_text() + ROWS)
    (folder / "plain.txt").write_text(TEXT, encoding="utf-8")
    config = runs_config(path)
    options = SweepOptions(limit=1, forgetting=str(folder / "plain.txt"))
    sweep(read_rows(str(path), config), folder / "sweep", options, [])
    return folder, path, config


def runs_config(path):
    scope: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope["get_config"]()


def test_a_sweep_measures_it_and_keeps_it(swept):
    folder, path, config = swept
    workdir = folder / "sweep" / "runs" / "length=3"
    found = json.loads((workdir / "scores.json").read_text())["test"]["forgetting"]
    assert found["file"] == "plain.txt" and found["bytes"] == len(TEXT) and found["change"] != 0
    assert "forgetting" in (folder / "sweep" / "table.md").read_text()
    before = {p: p.stat().st_mtime_ns for p in (folder / "sweep" / "runs").rglob("*.json")}
    options = SweepOptions(limit=1, forgetting=str(folder / "plain.txt"))
    sweep(read_rows(str(path), config), folder / "sweep", options, [])
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "sweep" / "runs").rglob("*.json")}


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [(b"", {}, "is empty; give a file with text."), (None, {}, "cannot be read"), (b"x", {"split": ""}, "leave out")],
)
def test_a_text_that_cannot_be_used_is_found_before_training(swept, tmp_path, content, options, said):
    _, path, config = swept
    if content is not None:
        (tmp_path / "plain.txt").write_bytes(content)
    with pytest.raises(UserError, match=said):
        sweep(
            read_rows(str(path), config),
            tmp_path / "sweep",
            SweepOptions(**options, forgetting=str(tmp_path / "plain.txt")),
            [],
        )
    assert not (tmp_path / "sweep").exists()


def test_in_python_it_is_that_of_evaluate(swept):
    folder, _, _ = swept
    workdir = folder / "sweep" / "runs" / "length=3"
    tuned = api.load(workdir)
    found = tuned.forgetting(TEXT)
    recorded = json.loads((workdir / "scores.json").read_text())["test"]["forgetting"]
    assert found == pytest.approx({name: value for name, value in recorded.items() if name in found})
    halves = tuned.forgetting([TEXT[:240], TEXT[240:]])
    one, two = tuned.forgetting(TEXT[:240]), tuned.forgetting(TEXT[240:])
    mean = (one["loss_tuned"] * one["tokens"] + two["loss_tuned"] * two["tokens"]) / halves["tokens"]
    assert halves["tokens"] == one["tokens"] + two["tokens"] and halves["loss_tuned"] == pytest.approx(mean)
    for empty in ("", []):
        with pytest.raises(UserError, match=r"has 0 token\(s\)"):
            tuned.forgetting(empty)
