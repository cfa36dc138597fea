"""Metric writers: `metrics.jsonl`, TensorBoard, and optionally Weights & Biases."""

import contextlib
import json
import math
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat, SupportsInt

from prefix_jax import disk
from prefix_jax.disk import write_text
from prefix_jax.errors import UserError
from prefix_jax.workdir import METRICS, TENSORBOARD, WANDB_ID, is_run, read_config, read_metrics, step_of


class MetricWriter:
    """Writes the scalars of a run per step; only the primary process owns one.

    `metrics.jsonl` is authoritative: one JSON object per line, which outlasts the process when `write` returns, and a
    power loss when `sync` does.

    Args:
        workdir: run directory; created if absent.
        tensorboard: whether to write event files under `workdir/tensorboard`.
        wandb: a Weights & Biases project, or "" for none.

    Raises:
        UserError: wandb is requested but not installed, or the directory cannot be written.
    """

    def __init__(self, workdir: Path | str, tensorboard: bool = True, wandb: str = ""):
        self._workdir = Path(workdir)
        self._path = self._workdir / METRICS
        self._wants_tensorboard = tensorboard
        self._tensorboard: _EventFile | None = None
        self._purge_step: int | None = None
        self._wandb: Any = None
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self._path)
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        if wandb:
            self._wandb = _start_wandb(self._workdir, wandb)

    def resume(self, step: int) -> None:
        """Drops everything after `step`, including a partial line, so that the resumed run writes each step once.

        Must precede the first `write`. The file is replaced atomically; TensorBoard hides old events from `step + 1`
        on; Weights & Biases keeps its data and ignores repeated steps.
        """
        if self._tensorboard is not None:
            raise ValueError("resume() must come before the first write()")
        self._purge_step = step + 1
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        kept = [line for line in lines if 0 <= _step_of(line) <= step]
        if kept != lines[:-1] or lines[-1]:
            write_text(self._path, "".join(line + "\n" for line in kept))

    def write(self, step: SupportsInt, values: Mapping[str, SupportsFloat]) -> None:
        """Appends `{"step": step, **values}`; NaN and infinities become the strings "NaN", "Infinity", "-Infinity".

        Raises:
            UserError: the line cannot be written (for example, the disk is full); the file then ends in a whole line.
        """
        scalars = {name: float(value) for name, value in values.items()}
        numbers = {name: value if math.isfinite(value) else _spelled(value) for name, value in scalars.items()}
        _append(self._path, json.dumps({"step": int(step), **numbers}) + "\n")
        if self._wants_tensorboard:
            self._write_tensorboard(int(step), scalars)
        if self._wandb is not None:
            self._wandb.log(dict(scalars), step=int(step))

    def sync(self) -> None:
        """Waits until all lines are on disk: a checkpoint may only follow the lines of its steps."""
        if self._path.exists():
            disk.sync(self._path)
            disk.sync(self._workdir)

    def last(self, name: str) -> float | None:
        """Returns the latest value of a scalar in `metrics.jsonl`; None if absent."""
        return next((line[name] for line in reversed(read_metrics(self._workdir)) if name in line), None)

    def close(self) -> None:
        """Flushes and closes TensorBoard and Weights & Biases; `metrics.jsonl` needs no closing."""
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):  # `write` has already flushed
                self._tensorboard.close()
            self._tensorboard = None
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_tensorboard(self, step: int, scalars: Mapping[str, float]) -> None:
        directory = self._workdir / TENSORBOARD
        try:
            if self._tensorboard is None:
                self._tensorboard = _EventFile(directory, self._purge_step)
            self._tensorboard.write(step, scalars)
        except OSError as error:
            raise _cannot_write(directory, error) from error


class _EventFile:
    """A TensorBoard event file, written synchronously.

    tensorboardX's SummaryWriter passes events to a thread: a kill loses pending events, and a full disk ends the
    thread and then blocks the caller forever. Its record writer, used here, avoids both.
    """

    def __init__(self, directory: Path, purge_step: int | None):
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore
            from tensorboardX.proto.summary_pb2 import Summary  # type: ignore
        except ImportError as error:
            fix = "`pip install tensorboardX`, or set --config.training.tensorboard=False"
            raise UserError(f"TensorBoard event files need the package tensorboardX: {fix}") from error
        self._event, self._summary = Event, Summary
        directory.mkdir(exist_ok=True)
        # The name ends in nanoseconds, so that a run resumed within a second does not overwrite the earlier file.
        self._file = EventsWriter(str(directory / "events"), f".{time.time_ns()}")
        if purge_step is not None:
            # TensorBoard hides events of older files from this step on.
            started = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(wall_time=time.time(), step=purge_step, session_log=started))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _start_wandb(workdir: Path, project: str) -> Any:
    try:
        import wandb  # type: ignore
    except ImportError as error:
        wanted = f'logging to the Weights & Biases project "{project}"'
        fix = "`pip install wandb`, or leave training.wandb empty"
        raise UserError(f"{wanted} needs the package wandb: {fix}") from error
    # A resumed run keeps its id, which therefore lives in the run directory.
    id_file = workdir / WANDB_ID
    if not id_file.exists():
        write_text(id_file, secrets.token_hex(4))
    config = read_config(workdir) if is_run(workdir) else None
    run_id = id_file.read_text(encoding="utf-8").strip()
    return wandb.init(project=project, name=workdir.name, id=run_id, resume="allow", dir=str(workdir), config=config)


def _spelled(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _step_of(line: str) -> int:
    try:
        return step_of(disk.from_json(line))
    except ValueError:
        return -1


def _append(path: Path, line: str) -> None:
    """Appends all of `line` or nothing."""
    end: int | None = None
    try:
        with open(path, "ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            data = line.encode()
            while data:
                data = data[file.write(data) :]
    except OSError as error:
        if end is not None:
            os.truncate(path, end)
        raise _cannot_write(path, error) from error


def _drop_torn_line(path: Path) -> None:
    """Removes a partial line after the last newline, left by a kill."""
    if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def _cannot_write(path: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"cannot write {path}: {reason}; free some space or choose another --workdir, then run it again")
