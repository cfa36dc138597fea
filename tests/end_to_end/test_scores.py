"""Scores of several splits and calls in one run directory."""

import json

import pytest

from prefix_jax import inference
from prefix_jax.training import pipeline
from prefix_jax.tuning.pair import Pair
from tests import runs, tiny

QUICK = {"decoding.strategy": "greedy", "decoding.max_length": 3}


@pytest.fixture(scope="module")
def run(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    config = tiny.configuration(tiny_models["llama"], folder)
    config.training.update(steps=1, batch=4, evaluate_records=2, tensorboard=False)
    pipeline.tune(config, folder / "run", [])
    return folder / "run"


def test_a_split_keeps_its_scores_when_another_is_scored(run):
    inference.evaluate(run, "test", bare=True, overrides=QUICK)
    inference.evaluate(run, "validation", overrides=QUICK)
    samples = inference.read_samples(run)
    assert [row["split"] for row in samples] == ["validation"] * 4 + ["test"] * 4
    entry = inference.evaluate(run, "test", spread=True, overrides=QUICK)  # all records, however they are spaced
    scores = json.loads((run / "scores.json").read_text())
    assert "bare" in entry and "bare" in scores["test"] and "tuned" in scores["validation"]
    assert inference.read_samples(run)[0]["split"] == "test" and all(row["bare"] is not None for row in samples[4:])


def test_scores_of_fewer_records_say_what_they_replace(run, capsys):
    inference.evaluate(run, "test", overrides=QUICK)
    inference.evaluate(run, "test", limit=1, overrides=QUICK)
    assert "replacing the scores of 4 records of test by those of fewer" in capsys.readouterr().err


def test_scores_of_other_records_are_not_kept_beside_new_ones(run, tmp_path):
    inference.evaluate(run, "test", bare=True, overrides=QUICK)
    assert "bare" in inference.evaluate(run, "test", overrides=QUICK)
    rows = [{**row, "target": f"{row['target']} !"} for row in tiny.rows(40)]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = {**QUICK, "data.path": str(tmp_path / "other.jsonl")}
    entry = inference.evaluate(run, "test", overrides=other)
    assert entry["records"] == 4 and "bare" not in entry


@pytest.mark.slow
def test_a_run_that_looks_failed_ends_with_code_3_where_that_is_asked_for(tiny_models, tmp_path):
    recipe = runs.write_recipe(tmp_path, tiny_models["llama"], steps=4)
    options = ("--config.method=finetune", "--config.optimizer.learning_rate=0.5", "--config.optimizer.warmup_steps=0")
    words = ("--config", str(recipe), "--workdir", str(tmp_path / "run"), *options)
    _, err = runs.run("train", *words, cache=tmp_path / "cache")
    said = [line for line in err.splitlines() if line.startswith("warning: this run looks failed: the validation loss")]
    assert len(said) == 1
    runs.run("train", *words, "--config.evaluation.failed_run=error", cache=tmp_path / "cache", code=3)
    words = ("--workdir", str(tmp_path / "run"), "--config.evaluation.failed_run=error", "--json")
    out, err = runs.run("evaluate", *words, cache=tmp_path / "cache", code=3)
    assert json.loads(out) and "this run looks failed" in err
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["test"]["verdict"]
    assert "This run looks failed" in (tmp_path / "run" / "report.html").read_text()


def test_what_was_tuned_is_read_once(run, monkeypatch):
    read, counted = Pair.read_tensors, []

    def counting(pair, folder, about):
        counted.append(folder)
        return read(pair, folder, about)

    monkeypatch.setattr(Pair, "read_tensors", counting)
    inference.open_tuned(run)
    assert len(counted) == 1
