"""Train, evaluate, generate and convert through the command lines, on a tiny model."""

import json

import pytest

from tests import runs


@pytest.fixture(scope="module", params=["t5", pytest.param("llama", marks=pytest.mark.nightly)])
def finished(request, tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    recipe = runs.write_recipe(folder, tiny_models[request.param])
    workdir, cache = folder / "run", folder / "cache"
    _, err = runs.run("train", "--config", str(recipe), "--workdir", str(workdir), cache=cache)
    return request.param, recipe, workdir, cache, err


@pytest.mark.slow
def test_a_run_directory_explains_itself(finished):
    _, _, workdir, _, err = finished
    assert "parameters frozen" in err
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["prefix"]["length"] == 3
    assert set(record["parameters"]) == {"trained", "stored", "base"} and record["versions"]["jax"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 12 and losses[-1] < losses[0]
    assert any("validation_loss" in line for line in lines)
    saved = {path.name for path in (workdir / "tuned").iterdir()}
    assert saved == {"prefix.safetensors", "prefix.json"}


@pytest.mark.slow
def test_evaluate_writes_scores_samples_and_report(finished):
    _, _, workdir, cache, _ = finished
    out, _ = runs.run("evaluate", "--workdir", str(workdir), "--split", "test", "--bare", "--inspect", cache=cache)
    assert "BLEU" in out
    scores = json.loads((workdir / "scores.json").read_text())["test"]
    assert scores["records"] == 4 and "BLEU" in scores["tuned"] and "BLEU" in scores["bare"]
    rows = [json.loads(line) for line in (workdir / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and rows[0]["references"] and isinstance(rows[0]["tuned"], str)
    inspected = json.loads((workdir / "inspection.json").read_text())
    assert inspected["split"] == "test" and inspected["records"] == 4 and inspected["prefix_share"]
    assert inspected["parameters"]["by_method"]["prefix 10, direct"][0] > 0
    report = (workdir / "report.html").read_text()
    assert "<html" in report and "Attention to the prefix" in report and "What each method trains" in report


@pytest.mark.slow
def test_generate_from_run_tuned_folder_file_and_stdin(finished, tmp_path):
    _, _, workdir, cache, _ = finished
    text = "name : Place 3 | food : Thai"
    one, _ = runs.run("generate", "--workdir", str(workdir), "--input", text, cache=cache)
    lines = tmp_path / "lines.txt"
    lines.write_bytes(f"\ufeff{text}\r\n{text}\r\n".encode())
    two, _ = runs.run("generate", "--tuned", str(workdir / "tuned"), "--input-file", str(lines), cache=cache)
    assert two == one * 2
    both, _ = runs.run("generate", "--workdir", str(workdir), "--input", text, "--input", text, cache=cache)
    assert both == two
    greedy, _ = runs.run(
        "generate", "--workdir", str(workdir), "--input", text, "--config.decoding.strategy=greedy", cache=cache
    )
    assert len(greedy.splitlines()) == 1


@pytest.mark.nightly
def test_another_configuration_is_refused_and_loses_nothing(finished):
    _, recipe, workdir, cache, _ = finished
    before = (workdir / "config.json").read_bytes()
    words = ("--config", str(recipe), "--workdir", str(workdir))
    _, err = runs.run("train", *words, "--config.prefix.length=4", cache=cache, code=2)
    assert "prefix.length was 3 and is now 4" in err and "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert (workdir / "config.json").read_bytes() == before
    runs.run("train", *words, "--config.training.steps=14", "--config.training.log_every=5", cache=cache)
    assert runs.steps_written(workdir) == 14
