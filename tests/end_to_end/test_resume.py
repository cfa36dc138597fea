"""A run that is killed or stopped goes on, by the same command, to the same numbers."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests import runs


def tuned_bytes(workdir: Path) -> bytes:
    return (workdir / "tuned" / "prefix.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = runs.write_recipe(folder, tiny_models["t5"], steps=40)
    words = ("--config", str(recipe), "--config.prefix.dropout=0.1", "--config.training.ema=0.5")
    runs.run("train", *words, "--workdir", str(folder / "run"), cache=folder / "cache")
    return folder, words


def wait_for_step(process, workdir: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while runs.steps_written(workdir) < step and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.002)


# By day, every change of a run is a crash point once in `tests/faults`, and processes are killed in `tests/parallel`.
@pytest.mark.nightly
def test_resume_after_sigkill_at_random_moments_is_bit_equal(uninterrupted, tmp_path):
    folder, words = uninterrupted
    moments = random.Random()
    workdir, killed = tmp_path / "run", []
    for _ in range(2):
        process = runs.start("train", *words, "--workdir", str(workdir), cache=folder / "cache")
        wait_for_step(process, workdir, min(runs.steps_written(workdir) + moments.randint(1, 9), 38))
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.communicate()
        killed.append(runs.steps_written(workdir))
    runs.run("train", *words, "--workdir", str(workdir), cache=folder / "cache")
    assert tuned_bytes(workdir) == tuned_bytes(folder / "run"), f"killed after steps {killed}"
    steps = [
        json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines() if "loss" in line
    ]
    training = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()
                if "learning_rate" in line]  # fmt: skip
    assert training == list(range(1, 41)), steps


@pytest.mark.slow
def test_resume_after_sigterm_saves_first_and_exits_cleanly(uninterrupted, tmp_path):
    folder, words = uninterrupted
    workdir = tmp_path / "run"
    process = runs.start("train", *words, "--workdir", str(workdir), cache=folder / "cache")
    wait_for_step(process, workdir, 5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "run the same command again" in err
    stopped = runs.steps_written(workdir)
    assert (workdir / "checkpoints" / str(stopped)).is_dir(), "what was trained is saved"
    assert not (workdir / "tuned").exists()
    runs.run("train", *words, "--workdir", str(workdir), cache=folder / "cache")
    assert tuned_bytes(workdir) == tuned_bytes(folder / "run")


@pytest.mark.slow
def test_resume_ignores_an_empty_checkpoint_folder(uninterrupted, tmp_path):
    """A kill may leave a step's folder without a checkpoint in it."""
    folder, words = uninterrupted
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "8").mkdir(parents=True)
    runs.run("train", *words, "--workdir", str(workdir), cache=folder / "cache")
    assert tuned_bytes(workdir) == tuned_bytes(folder / "run")
