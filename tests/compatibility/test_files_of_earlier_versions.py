"""What earlier versions wrote (see `write`) still opens: each folder here named after a version holds its files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefix_jax.models.pretrained import load
from tests import runs
from tests.compatibility.write import SOURCE

VERSIONS = sorted(folder.name for folder in Path(__file__).parent.glob("v*"))


@pytest.fixture(params=VERSIONS)
def folder(request, tmp_path) -> Path:
    return Path(shutil.copytree(Path(__file__).parent / request.param, tmp_path / "project"))


def run(folder: Path, module: str, *words: str) -> tuple[str, str]:
    return runs.run(module, *words, cache=folder / "cache", cwd=folder)


def prefix_of(workdir: Path) -> dict[str, np.ndarray]:
    return load_file(workdir / "tuned" / "prefix.safetensors")


def test_the_earlier_name_of_a_model_config_is_known(folder):
    opened = load(str(folder / "models/gpt2"))
    assert opened.spec is opened.model_config


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), [("prefix", "t5"), ("lora", "gpt2")])
def test_what_was_tuned_gives_the_same_text(folder, name, family):
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))[name]
    words = (f"--workdir={name}", f"--config.model.source=models/{family}", f"--input={SOURCE}")
    assert run(folder, "generate", *words)[0] == expected


@pytest.mark.slow
def test_a_scored_run_keeps_its_scores(folder):
    before = json.loads((folder / "prefix/scores.json").read_text(encoding="utf-8"))["test"]
    words = ("--config.model.source=models/t5", "--limit=4", "--notuned", "--bare")
    run(folder, "evaluate", "--workdir=prefix", *words)
    after = json.loads((folder / "prefix/scores.json").read_text(encoding="utf-8"))["test"]
    assert after["tuned"] == before["tuned"]
    assert after["bare"] == pytest.approx(before["bare"])


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_prefix(folder):
    began = json.loads((folder / "stopped/config.json").read_text(encoding="utf-8"))["started"]
    words = ("--config=recipe.py", "--config.model.source=models/t5", "--config.prefix.dropout=0.1")
    run(folder, "train", *words, "--workdir=stopped")
    assert json.loads((folder / "stopped/config.json").read_text(encoding="utf-8"))["started"] == began
    resumed, whole = prefix_of(folder / "stopped"), prefix_of(folder / "prefix")
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        # Adam amplifies the rounding of another CPU in single numbers, by up to 2e-3 of the norm over the whole run.
        assert np.linalg.norm(resumed[name] - tensor) < 5e-3 * np.linalg.norm(tensor), name


@pytest.mark.slow
def test_a_sweep_runs_only_the_rows_that_are_left(folder):
    done = {path: path.read_bytes() for path in folder.glob("sweep/runs/length*/tuned/prefix.safetensors")}
    assert len(done) == 4
    run(folder, "sweep", "--config=recipe.py", "--workdir=sweep", "--limit=2")
    rows = json.loads((folder / "sweep/sweep.json").read_text(encoding="utf-8"))["rows"]
    assert [row["status"] for row in rows] == ["scored"] * 5
    assert {path: path.read_bytes() for path in done} == done


@pytest.mark.slow
def test_a_prefix_converts_to_peft(folder):
    run(folder, "convert", "--from=sweep/runs/length=3,seed=1", "--to=peft", "--out=peft")
    stored = load_file(folder / "peft" / "adapter_model.safetensors")["prompt_embeddings"]
    assert stored.shape == (3, 2 * 2 * 16)
