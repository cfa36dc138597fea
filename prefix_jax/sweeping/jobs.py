"""Groups of a sweep as separate jobs, on SLURM or as local processes; the only module that imports submitit."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from prefix_jax import disk, extras, schema
from prefix_jax.errors import UserError, first_line
from prefix_jax.schema import matching

# Options that submitit accepts for every cluster; the others are SLURM's.
_COMMON = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
_DEFAULTS: dict[str, Any] = {"timeout_min": 24 * 60}
_JOB = "job.json"


class _Record(TypedDict):
    """`job.json`."""

    job: matching(r"^[1-9][0-9]{0,17}(_[0-9]+)?$")
    cluster: Literal["local", "slurm"]


@dataclass(frozen=True)
class Work:
    """The function of a job. A job that SLURM stops at its time limit is requeued and resumes."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self) -> None:
        self.function(*self.arguments)

    def checkpoint(self) -> Any:
        """Called by submitit when the job reaches its time limit or is preempted."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class Job:
    """A job started by this or an earlier call."""

    folder: Path
    number: str
    cluster: str
    handle: Any

    def done(self) -> bool:
        """Whether the job has ended, successfully or not."""
        if self.cluster == "local" and self.handle is None:
            return not _alive(int(self.number))
        return bool(self.handle.done(force_check=True))

    def complaint(self) -> str:
        """Returns the last line of a failed job's log."""
        logs = sorted(self.folder.glob(f"{self.number}_*_log.err"))
        lines = [line for log in logs for line in log.read_text("utf-8", "replace").split("\n") if line.strip()]
        return f"{lines[-1][:300] if lines else 'it left no log'} (job {self.number}; see {self.folder})"


class Jobs:
    """Starts jobs on a cluster; `options` as on the command line: `timeout_min=240`, `partition=gpu`."""

    def __init__(self, cluster: str, options: Sequence[str]):
        extras.require("submitit", "--jobs")
        import submitit

        self._submitit, self.cluster, self._options = submitit, cluster, {**_DEFAULTS, **parse(options)}

    def start(self, folder: Path, work: Work) -> Job:
        """Starts a job with its files in `folder`.

        Raises:
          UserError: the cluster rejects the job.
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
        """Returns the job that an earlier call started in a folder, unless it has ended."""
        try:
            record = disk.from_json((folder / _JOB).read_bytes())
        except (OSError, ValueError):
            return None
        if schema.problem(record, _Record):
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
    """Parses `name=value` arguments into a dictionary; whole numbers become int.

    Raises:
      UserError: an argument has no value.
    """
    found: dict[str, Any] = {}
    for word in options:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UserError(f'--job has "{word}"; it must be a name and a value, such as partition=gpu')
        found[name.removeprefix("slurm_")] = int(value) if value.isdigit() else value
    return found


def follow(jobs: Mapping[str, Job], ended: Callable[[str, Job], None], seconds: float) -> None:
    """Calls `ended` for each job as it ends, polling every `seconds`."""
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
