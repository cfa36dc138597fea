"""Every change that a short run makes on the disk is a crash point once, and where the disk fills; it resumes."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prefix_jax import disk
from prefix_jax.errors import UserError
from prefix_jax.sweeping.rows import Row
from prefix_jax.sweeping.sweep import SweepOptions, sweep
from prefix_jax.training import pipeline, session
from prefix_jax.workdir import read_scores, read_sweep
from tests import tiny
from tests.faults.crashes import Changes, watched

# Values of time and of speed, which differ from run to run.
_TIMED = ("seconds", "tokens_per_second")


class Case(NamedTuple):
    """A configuration with its model in memory, and what an undisturbed run leaves."""

    config: Any
    opened: Any
    whole: Path
    changes: list[str]


def tune(case: Case, workdir: Path, changes: Changes | None = None) -> None:
    with watched(changes or Changes(workdir)):
        pipeline.tune(case.config, workdir, [], opened=case.opened)


@pytest.fixture(scope="module")
def case(tiny_models, tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("crashes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFIX_JAX_CACHE", str(folder / "cache"))
        config = tiny.configuration(tiny_models["gpt2"], folder)
        config.training.update(
            steps=6, batch=4, log_every=1, evaluate_every=3, evaluate_records=4, checkpoint_every=2, tensorboard=False
        )
        made = Case(config, session.open_session(config), folder / "whole", [])
        changes = Changes(made.whole)
        tune(made, made.whole, changes)
    return made._replace(changes=changes.seen)


def left(workdir: Path) -> dict[str, Any]:
    """What a run leaves, without times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().split("\n") if line]
    lines = [{name: value for name, value in line.items() if name not in _TIMED} for line in lines]
    names = sorted(p.relative_to(workdir).as_posix() for p in workdir.rglob("*") if "/state/" not in str(p))
    tuned = {name: (workdir / "tuned" / name).read_bytes() for name in ("prefix.safetensors", "prefix.json")}
    return {"lines": lines, "names": names, "tuned": tuned}


def tear(workdir: Path) -> None:
    """Cuts the last line of metrics in two, where no checkpoint has its step: it was not yet synced."""
    path = workdir / "metrics.jsonl"
    data = path.read_bytes() if path.exists() else b""
    steps = [int(folder.name) for folder in (workdir / "checkpoints").glob("*") if folder.name.isdigit()]
    start = data[:-1].rfind(b"\n") + 1
    if data and json.loads(data[start:])["step"] > max(steps, default=0):
        os.truncate(path, start + (len(data) - start) // 2)


def numbers(case: Case, some: int) -> list[int]:
    return [round(part * (len(case.changes) - 1) / (some - 1)) for part in range(some)] if some else []


def check_crash(case: Case, workdir: Path, number: int) -> None:
    changes = Changes(workdir, number)
    with pytest.raises(BaseException) as ended:  # orbax gives a thread's `Crash` another type
        tune(case, workdir, changes)
    assert changes.ended, f"{number}: {ended.value!r}"
    if number % 2:
        tear(workdir)
    tune(case, workdir)
    assert left(workdir) == left(case.whole), f"crash point {number}: {changes.seen[number]}"


def check_full(case: Case, workdir: Path, number: int, capsys: Any) -> None:
    changes = Changes(workdir, number, full=True)
    capsys.readouterr()
    try:
        tune(case, workdir, changes)
    except (UserError, OSError) as error:
        assert "no space left on device" in str(error).lower(), f"{number}: {error!r}"
    said = capsys.readouterr().err
    assert "Traceback" not in said, f"{number}: {said}"
    tune(case, workdir)
    assert left(workdir) == left(case.whole), f"full at {number}: {changes.seen[number]}"


@pytest.mark.slow
def test_a_run_that_ends_anywhere_resumes_to_the_same_end(case, tmp_path):
    assert len(case.changes) > 60
    for number in numbers(case, 5):
        check_crash(case, tmp_path / str(number), number)


@pytest.mark.slow
def test_a_disk_that_fills_anywhere_is_one_sentence_and_the_run_resumes(case, tmp_path, capsys):
    for number in numbers(case, 3):
        check_full(case, tmp_path / str(number), number, capsys)


@pytest.mark.nightly
def test_every_point_of_a_run(case, tmp_path, capsys):
    for number in range(len(case.changes)):
        check_crash(case, tmp_path / f"crash-{number}", number)
        check_full(case, tmp_path / f"full-{number}", number, capsys)


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """The paths that are synced, and the renames, in their order."""
    found: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record(handle: int) -> None:
        found.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def rename(old: Any, new: Any) -> None:
        found.append(f"{old} -> {new}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", rename)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no names of open files")
def test_a_file_is_on_disk_before_its_name_and_its_name_before_the_call_returns(synced, tmp_path):
    disk.write_text(tmp_path / "scores.json", "{}")
    temporary, renamed, folder = synced[-3:]
    assert renamed == f"{temporary} -> {tmp_path / 'scores.json'}" and folder == str(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no names of open files")
def test_a_checkpoint_is_on_disk_before_an_older_one_is_removed(case, synced, tmp_path):
    workdir = tmp_path / "run"
    changes = Changes(workdir)
    changes.seen = synced  # one list, in order
    with watched(changes):
        pipeline.tune(case.config, workdir, [], opened=case.opened)
    kept = workdir / "checkpoints" / "4"
    removed = next(i for i, one in enumerate(synced) if one.startswith("os.rmdir /checkpoints/2"))
    before = set(synced[:removed])
    assert {str(path) for path in kept.rglob("*")} | {str(kept), str(kept.parent)} <= before
    metrics = [i for i, one in enumerate(synced) if one == str(workdir / "metrics.jsonl")]
    saved = next(i for i, one in enumerate(synced) if "/checkpoints/2.orbax" in one)
    assert metrics[0] < saved


class Sweep(NamedTuple):
    """The rows of a sweep, and what an undisturbed one leaves."""

    rows: list[Row]
    whole: dict[str, Any]
    changes: list[str]


OPTIONS = SweepOptions(split="test", limit=1)


def swept(rows: list[Row], workdir: Path, changes: Changes) -> dict[str, Any]:
    """Runs or resumes a sweep, and returns what it leaves, without times."""
    with watched(changes):
        sweep(rows, workdir, OPTIONS, [])
    found: dict[str, Any] = {"table": (workdir / "table.md").read_text()}
    found["hidden"] = sorted(p.relative_to(workdir).as_posix() for p in workdir.rglob(".*"))
    for row in read_sweep(workdir)["rows"]:
        run = workdir / row["directory"]
        about = {name: value for name, value in row.items() if name not in _TIMED}
        # The command names the directory.
        left_out = (*_TIMED, "command")
        scores = {name: value for name, value in read_scores(run)["test"].items() if name not in left_out}
        kept = [(run / name).read_bytes() for name in ("tuned/prefix.safetensors", "samples.jsonl")]
        found[row["name"]] = (about, scores, kept, (run / "report.html").is_file())
    return found


@pytest.fixture(scope="module")
def swept_whole(case, tmp_path_factory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweeps")
    rows = []
    for length in (1, 2):
        config = case.config.copy_and_resolve_references()
        config.prefix.length = length
        config.training.steps = 2
        config.decoding.update(strategy="greedy", max_length=2)
        rows.append(Row(f"length={length}", {"prefix.length": length}, config))
    changes = Changes(folder / "whole")
    return Sweep(rows, swept(rows, folder / "whole", changes), changes.seen)


def check_sweep(made: Sweep, workdir: Path, number: int) -> None:
    changes = Changes(workdir, number)
    with pytest.raises(BaseException):  # noqa: B017 (see `check_crash`)
        swept(made.rows, workdir, changes)
    assert changes.ended
    assert swept(made.rows, workdir, Changes(workdir)) == made.whole, f"crash point {number}: {changes.seen[number]}"


@pytest.mark.slow
def test_a_sweep_that_ends_anywhere_resumes_to_the_same_end(swept_whole, tmp_path):
    count = len(swept_whole.changes)
    assert count > 80
    for number in (count // 3, 2 * count // 3, count - 2):
        check_sweep(swept_whole, tmp_path / str(number), number)


@pytest.mark.nightly
def test_every_point_of_a_sweep(swept_whole, tmp_path):
    for number in range(len(swept_whole.changes)):
        check_sweep(swept_whole, tmp_path / str(number), number)
