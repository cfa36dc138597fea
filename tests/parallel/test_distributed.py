"""Several processes of one run, on loopback: they give what one gives, stop together, and say what went wrong."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefix_jax.errors import UserError
from prefix_jax.parallel import distributed
from tests import runs

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def launch(tiny_models, tmp_path, monkeypatch):
    """Starts a run as `processes` processes of `devices` devices each; returns them."""
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["llama"], steps=8)

    def start(
        workdir: str, processes: int, devices: int, *more: str, each=(), module: str = "train"
    ) -> list[subprocess.Popen]:
        runs.simulate(monkeypatch, devices)
        port = free_port()
        recipe_words = [] if module == "evaluate" else ["--config", str(recipe), "--config.training.batch=8"]
        words = [*recipe_words, "--workdir", str(tmp_path / workdir), *more]
        found = []
        for process in range(processes):
            own = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={process}"]
            own = [] if processes == 1 else own
            own += each[process] if each else []
            found.append(runs.start(module, *words, *own, cache=tmp_path / "cache"))
        return found

    return start


def ended(processes: list[subprocess.Popen], seconds: float = 240) -> list[tuple[int, str]]:
    """Returns each process' exit code and what it said; gloo's own lines, which nothing can silence, aside."""
    found = []
    for process in processes:
        said = "".join(process.communicate(timeout=seconds))
        lines = [line for line in said.splitlines(keepends=True) if not line.startswith("[Gloo]")]
        found.append((process.returncode, "".join(lines)))
    return found


def prefix(workdir: Path) -> dict[str, np.ndarray]:
    return load_file(workdir / "tuned" / "prefix.safetensors")


@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [
        (2, 2, "fsdp=2"),
        pytest.param(4, 1, "tensor=2", marks=pytest.mark.nightly),
    ],
)
def test_processes_give_what_one_process_gives(processes, devices, mesh, launch, tmp_path):
    for workdir, count in (("several", processes), ("one", 1)):
        done = ended(launch(workdir, count, devices * processes // count, f"--config.mesh.{mesh}"))
        assert [code for code, _ in done] == [0] * count, done
        assert "train" in done[0][1] and all("train" not in said for _, said in done[1:])
    several, one = runs.lines(tmp_path / "several", "loss"), runs.lines(tmp_path / "one", "loss")
    assert several == pytest.approx(one, abs=1e-5) and len(several) == 8
    for name, leaf in prefix(tmp_path / "one").items():
        np.testing.assert_allclose(prefix(tmp_path / "several")[name], leaf, atol=2e-4)


def test_a_sweep_and_its_scores_on_several_processes(launch, tmp_path):
    """Members lie on both processes, and texts are written by both."""
    recipe = tmp_path / "recipe" / "recipe.py"
    sweep = "\n\ndef sweep():\n    yield {'training.seed': 1}\n    yield {'training.seed': 2}\n"
    recipe.write_text(recipe.read_text() + sweep)
    more = ("--limit=4", "--config.mesh.member=2")
    for workdir, count in (("several", 2), ("one", 1)):
        done = ended(launch(workdir, count, 4 // count, *more, module="sweep"))
        assert [code for code, _ in done] == [0] * count, done
        assert "seed=1" in done[0][1] and all("seed=1" not in said for _, said in done[1:])
    for row in ("seed=1", "seed=2"):
        several, one = (tmp_path / workdir / "runs" / row for workdir in ("several", "one"))
        assert runs.lines(several, "loss") == pytest.approx(runs.lines(one, "loss"), abs=1e-5)
        assert (several / "samples.jsonl").read_bytes() == (one / "samples.jsonl").read_bytes()
    again = ended(launch("several/runs/seed=1", 2, 1, "--split=validation", module="evaluate"))
    assert [code for code, _ in again] == [0, 0], again
    assert "bleu" in again[0][1].lower() and not again[1][1].strip()


def test_sigterm_to_one_saves_on_all_at_the_same_step_and_one_process_goes_on(launch, tmp_path):
    more = ("--config.training.steps=400", "--config.training.checkpoint_every=1000")
    processes = launch("run", 2, 1, *more)
    until(lambda: runs.steps_written(tmp_path / "run") >= 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    done = ended(processes)
    assert [code for code, _ in done] == [0, 0], done
    assert "run the same command again to resume" in done[0][1]
    (step,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert 3 <= step < 400
    done = ended(launch("run", 1, 2, f"--config.training.steps={step + 4}", more[1]))
    assert done[0][0] == 0, done
    assert list(runs.lines(tmp_path / "run", "loss")) == list(range(1, step + 5))


def test_one_process_killed_ends_the_others_and_the_restart_goes_on(launch, tmp_path):
    processes = launch("run", 2, 1, "--config.training.steps=2000")
    until(lambda: runs.steps_written(tmp_path / "run") >= 5, processes)
    processes[1].send_signal(signal.SIGKILL)
    code, said = ended(processes, 120)[0]
    assert code != 0 and ("another process of this run has ended" in said or "another task died" in said), said
    done = ended(launch("run", 2, 1, "--config.training.steps=12"))
    assert [code for code, _ in done] == [0, 0], done


@pytest.mark.nightly
def test_processes_agree_on_the_sound_checkpoint_before_a_damaged_one(launch, tmp_path):
    """In a directory whose name has the characters of patterns."""
    assert [code for code, _ in ended(launch("run[1]", 2, 1, "--config.mesh.fsdp=2"))] == [0, 0]
    checkpoints = tmp_path / "run[1]" / "checkpoints"
    for path in (checkpoints / "8" / "state").rglob("d/*"):  # of the arrays, and what merging them may have left
        path.write_bytes(path.read_bytes()[:100])
    done = ended(launch("run[1]", 2, 1, "--config.mesh.fsdp=2", "--config.training.steps=10"))
    assert [code for code, _ in done] == [0, 0], done
    assert "8 is damaged" in done[0][1] and "damaged" not in done[1][1]
    assert {path.name for path in checkpoints.iterdir()} == {"8", "10", "damaged-8"}


def until(ready, processes, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes), [
            p.communicate() for p in processes if p.poll() is not None
        ]
        time.sleep(0.1)


def test_processes_with_different_options_are_refused(launch):
    done = ended(launch("run", 2, 1, each=[["--config.prefix.length=3"], ["--config.prefix.length=4"]]))
    assert [code for code, _ in done] == [2, 2]
    for _, said in done:
        assert "process 1 was started with prefix.length=4, and process 0 with 3" in said and "Traceback" not in said


def test_a_coordinator_that_is_not_there_is_one_sentence(launch, tmp_path):
    words = ["--coordinator=127.0.0.1:1", "--processes=2", "--process=1", "--wait_seconds=3"]
    ((code, said),) = ended(launch("run", 1, 1, *words))
    assert code == 2 and "the coordinator 127.0.0.1:1 could not be reached within 3 s" in said, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("127.0.0.1:1", 0, -1), "belong together"),
        (("127.0.0.1:1", 2, 2), "of 2 processes the last is 1"),
        (("nowhere", 2, 1), "must be host:port"),
    ],
)
def test_flags_that_do_not_belong_together_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        distributed.join(*given)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, True),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_launchers_are_known_by_what_they_set(environment, expected):
    assert distributed.started_by_a_cluster(environment) == expected
