"""Tiny runs through the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import tiny
from tests.conftest import ROOT

RECIPE = """
from prefix_jax.config import default_config

def get_config():
    config = default_config()
    config.model.source = {source!r}
    config.data.update(task="text", path={data!r})
    config.prefix.update(length=3, hidden=16)
    config.optimizer.learning_rate = 1e-2
    config.training.update(steps={steps}, batch=4, log_every=1, evaluate_every=4, evaluate_records=4,
                           checkpoint_every=2, tensorboard=False)
    config.decoding.update(beams=2, max_length=8, batch=4)
    return config
"""


def write_recipe(folder: Path, source: Path, steps: int = 12) -> Path:
    """Writes a recipe for a tiny model over 40 rows, and the rows; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    data = tiny.save_rows(folder / "rows.jsonl", 40)
    recipe = folder / "recipe.py"
    recipe.write_text(RECIPE.format(source=str(source), data=str(data), steps=steps), encoding="utf-8")
    return recipe


def environment(cache: Path) -> dict[str, str]:
    paths = {"PREFIX_JAX_CACHE": str(cache), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **paths, "JAX_PLATFORMS": "cpu"}


def start(module: str, *words: str, cache: Path, cwd: Path = ROOT) -> subprocess.Popen:
    """Starts `python -m prefix_jax.MODULE WORDS` in `cwd`."""
    return subprocess.Popen(
        [sys.executable, "-m", f"prefix_jax.{module}", *words],
        cwd=cwd, env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def run(module: str, *words: str, cache: Path, code: int = 0, cwd: Path = ROOT) -> tuple[str, str]:
    """Runs a command line to its end; asserts its exit code; returns what it printed."""
    process = start(module, *words, cache=cache, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out, err


def lines(workdir: Path, name: str) -> dict[int, float]:
    """Returns a metric of metrics.jsonl by step."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in found if name in line}


def simulate(monkeypatch, devices: int) -> None:
    """Lets the processes that are started from now on see so many CPU devices."""
    flags = os.environ["XLA_FLAGS"].split(" --xla_force")[0]
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count={devices}")


def steps_written(workdir: Path) -> int:
    """Returns the last step in metrics.jsonl, 0 where there is none."""
    try:
        lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (OSError, ValueError):
        return 0
