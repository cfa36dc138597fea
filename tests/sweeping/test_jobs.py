"""A sweep's programs as jobs: real ones, as processes of this machine."""

import json
import signal
import time

import pytest

from prefix_jax.errors import UserError
from prefix_jax.sweeping.jobs import Jobs, parse
from tests import runs

SWEEP = """

def sweep():
    yield {{"prefix.length": 2}}
    yield {{"prefix.length": 3}}
    yield {{"prefix.hidden": 8{bad}}}
"""


def write(tiny_models, tmp_path, bad: str = "", steps: int = 6):
    path = runs.write_recipe(tmp_path / "recipe", tiny_models["gpt2"], steps=steps)
    path.write_text(path.read_text() + SWEEP.format(bad=bad))
    return ("--config", str(path), "--workdir", str(tmp_path / "sweep"), "--limit", "4", "--jobs", "local")


def rows(tmp_path) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads((tmp_path / "sweep" / "sweep.json").read_text())["rows"]}


@pytest.mark.slow
def test_jobs_train_and_score_and_are_not_repeated(tiny_models, tmp_path):
    words = write(tiny_models, tmp_path)
    out, err = runs.run("sweep", *words, cache=tmp_path / "cache")
    assert {row["status"] for row in rows(tmp_path).values()} == {"scored"}
    assert err.count("\njob ") + err.startswith("job ") == 2 and "length=2, length=3" in err
    assert "length  hidden  state" in out and (tmp_path / "sweep" / "report.html").is_file()
    _, err = runs.run("sweep", *words, cache=tmp_path / "cache")
    assert "job " not in err


@pytest.mark.slow
def test_a_job_goes_on_where_its_caller_was_killed_and_a_failure_is_told(tiny_models, tmp_path):
    words = write(tiny_models, tmp_path, bad=', "data.path": "/nowhere.jsonl"', steps=300)
    caller = runs.start("sweep", *words, cache=tmp_path / "cache")
    run = tmp_path / "sweep" / "runs" / "length=2"
    deadline = time.monotonic() + 240
    while runs.steps_written(run) < 3 and time.monotonic() < deadline and caller.poll() is None:
        time.sleep(0.1)
    caller.send_signal(signal.SIGKILL)
    caller.communicate()
    _, err = runs.run("sweep", *words, cache=tmp_path / "cache", code=2)
    found = rows(tmp_path)
    assert found["length=2"]["status"] == found["length=3"]["status"] == "scored"
    assert found.pop(next(name for name in found if "hidden" in name))["status"] == "failed"
    assert "hidden=8" in err and "length=2" not in err  # the one that ran was waited for
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and set(steps) == set(range(1, 301))


def test_options_are_names_and_values():
    assert parse(["timeout_min=5", "slurm_partition=gpu"]) == {"timeout_min": 5, "partition": "gpu"}
    with pytest.raises(UserError, match='--job has "gpu"; it must be a name and a value'):
        parse(["gpu"])


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path):
    jobs = Jobs("slurm", ["partition=gpu"])
    with pytest.raises(UserError, match="could not be submitted to slurm"):
        jobs.start(tmp_path, None)  # type: ignore[arg-type]
