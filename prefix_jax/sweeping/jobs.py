"""Groups of a sweep as jobs of their own, under SLURM or as processes of this machine. The one module for submitit."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefix_jax import disk
from prefix_jax.errors import UserError, first_line

# Options that submitit knows for every cluster; the others are SLURM's own.
_COMMON = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
_DEFAULTS: dict[str, Any] = {"timeout_min": 24 * 60}
_JOB = "job.json"


@dataclass(frozen=True)
class Work:
    """What a job does. A job that SLURM stops for its time is put into the queue again, and resumes."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self) -> None:
        self.function(*self.arguments)

    def checkpoint(self) -> Any:
        """Called by submitit when the job's time is over, or when it makes room for another."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class Job:
    """A job that was started, now or by an earlier call."""

    folder: Path
    number: str
    cluster: str
    handle: Any

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        if self.cluster == "local" and self.handle is None:
            return not _alive(int(self.number))
        return bool(self.handle.done(force_check=True))

    def complaint(self) -> str:
        """Returns the last line of what a job that failed wrote to its log."""
        logs = sorted(self.folder.glob(f"{self.number}_*_log.err"))
        lines = [line for log in logs for line in log.read_text("utf-8", "replace").split("\n") if line.strip()]
        return f"{lines[-1][:300] if lines else 'it left no log'} (job {self.number}; see {self.folder})"


class Jobs:
    """Starts jobs on a cluster; `options` are as on the command line: `timeout_min=240`, `partition=gpu`."""

    def __init__(self, cluster: str, options: Sequence[str]):
        try:
            import submitit
        except ImportError:
            raise UserError("jobs need submitit, which is not installed: pip install submitit") from None
        self._submitit, self.cluster, self._options = submitit, cluster, {**_DEFAULTS, **parse(options)}

    def start(self, folder: Path, work: Work) -> Job:
        """Starts a job whose files go to `folder`.

        Raises:
          UserError: the cluster takes no such job.
        """
        folder.mkdir(parents=True, exist_ok=True)
        try:
            executor = self._submitit.AutoExecutor(folder=folder, cluster=self.cluster)
            executor.update_parameters(**self._parameters())
            handle = executor.submit(work)
        except (NameError, TypeError, RuntimeError, OSError, self._submitit.core.utils.FailedJobError) as error:
            raise UserError(f"the job could not be submitted to {self.cluster}: {first_line(error)[:300]}") from error
        disk.write_text(folder / _JOB, json.dumps({"job": handle.job_id, "cluster": self.cluster}) + "\n")
        return Job(folder, handle.job_id, self.cluster, handle)

    def started(self, folder: Path) -> Job | None:
        """Returns the job that an earlier call started in a folder, if it has not ended."""
        try:
            record = json.loads((folder / _JOB).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        slurm = record["cluster"] == "slurm"
        handle = self._submitit.SlurmJob(folder=folder, job_id=record["job"]) if slurm else None
        job = Job(folder, record["job"], record["cluster"], handle)
        return None if job.done() else job

    def _parameters(self) -> dict[str, Any]:
        own = {n: v for n, v in self._options.items() if n in _COMMON}
        slurm = {f"slurm_{n}": v for n, v in self._options.items() if n not in _COMMON}
        return own | (slurm if self.cluster == "slurm" else {})


def parse(options: Sequence[str]) -> Mapping[str, Any]:
    """Returns `name=value` words as a dictionary; whole numbers are numbers.

    Raises:
      UserError: a word has no value.
    """
    found: dict[str, Any] = {}
    for word in options:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UserError(f'--job has "{word}"; it must be a name and a value, such as partition=gpu')
        found[name.removeprefix("slurm_")] = int(value) if value.isdigit() else value
    return found


def follow(jobs: Mapping[str, Job], ended: Callable[[str, Job], None], seconds: float) -> None:
    """Calls `ended` for each job as it ends; looks every `seconds`."""
    left = dict(jobs)
    while left:
        for name in [name for name, job in left.items() if job.done()]:
            ended(name, left.pop(name))
        if left:
            print(f"\r{len(left)} of {len(jobs)} jobs to end ", end="", file=sys.stderr, flush=True)
            time.sleep(seconds)
    print(file=sys.stderr)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
