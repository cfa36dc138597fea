"""A number can be traced to the bytes that made it: a run and its report name their inputs' hashes."""

import hashlib
import json

import pytest

from prefix_jax import inference
from prefix_jax.data.data_set import Columns
from prefix_jax.reporting import report
from prefix_jax.reporting.run import read_run
from prefix_jax.tasks import files
from prefix_jax.training import pipeline, session
from prefix_jax.workdir import read_config, read_scores
from tests import tiny


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_run_and_its_report_name_what_went_in(tiny_models, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    config.training.update(steps=1, batch=4, evaluate_records=4, tensorboard=False)
    config.decoding.update(strategy="greedy", max_length=2)
    opened, workdir, rows = session.open_session(config), tmp_path / "run", tmp_path / "rows.jsonl"
    pipeline.tune(config, workdir, [], opened=opened)
    inference.evaluate(workdir, "test", limit=1, opened=opened)
    first, tuned = sha256(rows), sha256(workdir / "tuned" / "prefix.safetensors")
    assert read_config(workdir)["inputs"] == {split: {"rows.jsonl": first} for split in ("train", "validation")}
    entry = read_scores(workdir)["test"]
    assert (entry["inputs"], entry["prefix"]) == ({"rows.jsonl": first}, tuned)
    page = report.page(read_run(workdir))
    record = read_config(workdir)
    for named in (first, tuned, record["tokenizer"], record["model"]["weights"], record["model"]["numbers"]):
        assert named in page
    assert page.count(first) == 3
    rows.write_text(rows.read_text() + json.dumps({"source": "x", "target": "y"}) + "\n")
    capsys.readouterr()
    config.training.steps = 2
    pipeline.tune(config, workdir, [], opened=opened)
    said = capsys.readouterr().err
    assert "warning: the files of the train split (rows.jsonl) are not those with which the run in" in said
    assert read_config(workdir)["inputs"]["train"] == {"rows.jsonl": sha256(rows)} != {"rows.jsonl": first}


@pytest.mark.parametrize(("split", "fraction", "named"), [("validation", 0.0, "dev"), ("validation", 0.2, "train")])
def test_the_files_are_those_that_are_read(split, fraction, named, tmp_path):
    for name in ("train", "dev", "test"):
        tiny.save_rows(tmp_path / f"{name}.jsonl", 12)
    found = files("text", split, str(tmp_path), Columns(validation_fraction=fraction))
    assert [path.name for path in found] == [f"{named}.jsonl"]
    assert files("lighthouse", "train") == ()
