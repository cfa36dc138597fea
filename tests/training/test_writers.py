"""metrics.jsonl, TensorBoard and Weights & Biases, and what a resumed run leaves of them."""

import builtins
import json
import math
import resource
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from prefix_jax.errors import UserError
from prefix_jax.training.writers import MetricWriter


def lines(workdir: Path) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def write_steps(workdir: Path, steps, **values) -> None:
    with MetricWriter(workdir, tensorboard=False) as writer:
        for step in steps:
            writer.write(step, {"loss": 1.0 / step, **values})


def events(workdir: Path) -> list[tuple[int, str, float]]:
    """Reads event files with tensorboardX's own protocol buffers and the TFRecord framing (length, crc, data, crc)."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((workdir / "tensorboard").glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.session_log.status == 1:
                # TensorBoard drops what it has from the step of a session's start on.
                found = [one for one in found if one[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_each_write_is_on_disk_at_once(tmp_path):
    with MetricWriter(tmp_path / "new" / "run", tensorboard=False) as writer:
        writer.write(10, {"loss": 1.5, "tokens_per_second": 3000})
        assert lines(tmp_path / "new" / "run") == [{"step": 10, "loss": 1.5, "tokens_per_second": 3000.0}]
        writer.write(20, {"validation_loss": 1.25})
        assert lines(tmp_path / "new" / "run")[1] == {"step": 20, "validation_loss": 1.25}
    assert not (tmp_path / "new" / "run" / "tensorboard").exists()


def test_numbers_of_numpy_and_jax_are_scalars(tmp_path):
    import jax.numpy as jnp
    import numpy as np

    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(np.int64(3), {"loss": jnp.float32(0.5), "norm": np.float64(2.0)})
    assert lines(tmp_path) == [{"step": 3, "loss": 0.5, "norm": 2.0}]


def test_non_finite_values_stay_valid_json(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    (line,) = lines(tmp_path)
    assert line == {"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1.0}
    assert math.isnan(float(line["a"])) and float(line["c"]) == -math.inf


def test_resume_drops_later_lines_and_writes_each_step_once(tmp_path):
    write_steps(tmp_path, range(10, 101, 10))
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.resume(40)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40]
    writer.write(50, {"loss": 9.0})
    assert lines(tmp_path)[-1] == {"step": 50, "loss": 9.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_resume_from_the_start_and_without_a_file(tmp_path):
    MetricWriter(tmp_path, tensorboard=False).resume(0)
    assert not (tmp_path / "metrics.jsonl").exists()
    write_steps(tmp_path, [10, 20])
    MetricWriter(tmp_path, tensorboard=False).resume(0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    "torn", [b'{"step": 30, "loss": 0.0', b'{"step": 30}', b"{", b'{"step": 30, "x": "\xc3', b"\x00\x00\x00"]
)
@pytest.mark.parametrize("resumed", [False, True])
def test_resume_drops_a_line_torn_by_a_kill(tmp_path, torn, resumed):
    write_steps(tmp_path, [10, 20])
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    writer = MetricWriter(tmp_path, tensorboard=False)
    if resumed:
        writer.resume(30)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    writer.write(30, {"loss": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_resume_keeps_untouched_lines_byte_for_byte(tmp_path):
    write_steps(tmp_path, range(1, 30), norm=1 / 3)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    MetricWriter(tmp_path, tensorboard=False).resume(29)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    MetricWriter(tmp_path, tensorboard=False).resume(12)
    assert before.startswith((tmp_path / "metrics.jsonl").read_bytes())


def test_resume_after_sigkill_of_a_writing_process(tmp_path):
    program = (
        "import sys; from prefix_jax.training.writers import MetricWriter\n"
        "w = MetricWriter(sys.argv[1], tensorboard=False)\n"
        "for s in range(1, 10**9): w.write(s, {'loss': 1 / s, 'long': float('nan')})"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[2])
    try:
        path, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 60
        while not path.exists() or path.stat().st_size < 20_000:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    writer = MetricWriter(tmp_path, tensorboard=False)
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    writer.resume(100)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 101))


def test_tensorboard_holds_the_same_numbers_and_purges_on_resume(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": step / 8})
        assert events(tmp_path) == [(10, "loss", 1.25), (20, "loss", 2.5), (30, "loss", 3.75)]
    with MetricWriter(tmp_path) as writer:
        writer.resume(20)
        writer.write(30, {"loss": 0.5})
    assert len(list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))) == 2
    assert events(tmp_path) == [(10, "loss", 1.25), (20, "loss", 2.5), (30, "loss", 0.5)]


def test_resume_after_the_first_write_is_refused(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
        with pytest.raises(ValueError, match="before the first"):
            writer.resume(1)


@pytest.mark.parametrize("package, options", [("wandb", {"wandb": "my-project"}), ("tensorboardX", {})])
def test_a_missing_package_is_named_with_the_mend(tmp_path, monkeypatch, package, options):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=f"pip install {package}"):
        MetricWriter(tmp_path, **options).write(1, {"loss": 1.0})


def test_wandb_goes_on_under_the_same_id(tmp_path, monkeypatch):
    calls = []

    class Started:
        def log(self, values, step):
            calls.append(("log", values, step))

        def finish(self):
            calls.append(("finish",))

    def init(**options):
        calls.append(("init", options))
        return Started()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    (tmp_path / "config.json").write_text('{"config": {"method": "prefix"}}')
    for step in (1, 2):
        with MetricWriter(tmp_path, tensorboard=False, wandb="project") as writer:
            writer.resume(step - 1)
            writer.write(step, {"loss": 0.5})
    first, second = (call[1] for call in calls if call[0] == "init")
    assert first == second and first["project"] == "project" and first["resume"] == "allow" and len(first["id"]) == 8
    assert first["config"] == {"config": {"method": "prefix"}}
    assert [call[2] for call in calls if call[0] == "log"] == [1, 2]
    assert calls.count(("finish",)) == 2


def test_a_full_disk_is_named_and_loses_no_line(tmp_path):
    write_steps(tmp_path, range(1, 20))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    program = (
        "import resource, signal, sys; from prefix_jax.errors import UserError\n"
        "from prefix_jax.training.writers import MetricWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "w = MetricWriter(sys.argv[1], tensorboard=False)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 5}, {resource.RLIM_INFINITY}))\n"
        "try: w.write(20, {'loss': 1.0})\n"
        "except UserError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "metrics.jsonl" in done.stdout and "free some space" in done.stdout
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/run/metrics.jsonl"):
        MetricWriter(tmp_path / "file" / "run")
