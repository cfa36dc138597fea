"""Multi-process training: joining, agreement on options, and stopping at the same step."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from prefix_jax import disk
from prefix_jax.errors import UserError, first_line

# Seconds of silence after which a process is considered dead.
_HEARTBEAT_SECONDS = 30
_AGREEMENT_BYTES = 1 << 16


def join(coordinator: str = "", processes: int = 0, process: int = -1, timeout: int = 300) -> None:
    """Joins the other processes of this run; must precede any other use of JAX.

    Without arguments, uses the processes started by SLURM, Open MPI, Cloud TPU or Kubernetes, if any; otherwise this
    process runs alone.

    Args:
      coordinator: `host:port` of process 0.
      processes: number of processes.
      process: index of this process, from 0.
      timeout: seconds to wait for the others.

    Raises:
      UserError: some arguments are missing or inconsistent, or the other processes cannot be reached.
    """
    named = (bool(coordinator), processes > 0, process >= 0)
    if any(named) and not all(named):
        raise UserError("--coordinator, --processes and --process belong together; give all three, or none")
    if not any(named) and not started_by_a_cluster(os.environ):
        return
    if processes and not process < processes:
        raise UserError(f"--process is {process}, and of {processes} processes the last is {processes - 1}")
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f'--coordinator is "{coordinator}"; it must be host:port, such as 10.0.0.1:8476')
    if process > 0:
        _knock(coordinator, timeout)
    given: dict[str, Any] = (
        dict(coordinator_address=coordinator, num_processes=processes, process_id=process) if coordinator else {}
    )
    try:
        jax.distributed.initialize(
            **given, initialization_timeout=timeout, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the other processes could not be joined ({first_line(error)[:160]}); start all of them, "
            "with the same --processes and a different --process each"
        ) from error


def _knock(coordinator: str, timeout: int) -> None:
    """Returns once the coordinator listens: JAX would terminate the program if nothing did."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"the coordinator {coordinator} could not be reached within {timeout} s "
                    f"({error.strerror or error}); start process 0 there, and open the port"
                ) from error
            time.sleep(0.2)


def started_by_a_cluster(environment: Mapping[str, str]) -> bool:
    """Returns whether a launcher known to JAX started this process as one of several."""

    def above_one(name: str) -> bool:
        return environment.get(name, "").isdigit() and int(environment[name]) > 1

    tpu = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    slurm = "SLURM_JOB_ID" in environment and above_one("SLURM_NTASKS") and "SLURM_PROCID" in environment
    kubernetes = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return slurm or above_one("OMPI_COMM_WORLD_SIZE") or tpu or kubernetes


def joined() -> bool:
    """Returns whether this process has joined a group, even if it is the only member."""
    return jax.distributed.is_initialized()


def is_multiprocess() -> bool:
    return jax.process_count() > 1


def is_primary() -> bool:
    """Returns whether this is the process that writes shared files and prints."""
    return jax.process_index() == 0


def agree(options: Mapping[str, Any]) -> None:
    """Compares flat options with those of process 0.

    Raises:
      UserError: in every process, if any process has different options.
    """
    if not is_multiprocess():
        return
    text = json.dumps(options, sort_keys=True, default=str).encode()
    if len(text) > _AGREEMENT_BYTES:
        raise ValueError(f"options of {len(text)} bytes are too many to compare")
    padded = np.zeros(_AGREEMENT_BYTES, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    found = [json.loads(bytes(row).rstrip(b"\0")) for row in multihost_utils.process_allgather(padded)]
    for process, theirs in enumerate(found):
        for name in sorted(theirs.keys() | found[0].keys()):
            if theirs.get(name) != found[0].get(name):
                raise UserError(
                    f"process {process} was started with {name}={theirs.get(name)!r}, and process 0 with "
                    f"{found[0].get(name)!r}; start all with the same command"
                )


def barrier(name: str) -> None:
    """Blocks until every process arrives."""
    if is_multiprocess():
        multihost_utils.sync_global_devices(name)


def fetch(tree: PyTree) -> PyTree:
    """Returns sharded arrays as numpy arrays in every process."""
    return multihost_utils.process_allgather(tree, tiled=True) if is_multiprocess() else jax.device_get(tree)


def of_primary(number: int) -> int:
    """Broadcasts process 0's number to every process."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if is_multiprocess() else number


def by_primary(work: Callable[[], Any]) -> Any:
    """Broadcasts the JSON result of `work`, which runs in process 0 only.

    Raises:
      UserError: in every process, if `work` raises it in process 0; the others refer to process 0.
    """
    if not is_multiprocess():
        return work()
    failed: Exception | None = None
    found: dict[str, Any] = {}
    if is_primary():
        try:
            found = {"value": work()}
        except Exception as error:
            failed = error
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    sent = np.zeros(of_primary(len(text)), np.uint8)
    if is_primary():
        sent[:] = text
    found = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(sent), np.uint8)))
    if failed is not None:
        raise failed
    if "value" not in found:
        raise UserError("process 0 failed; what it printed says why")
    return found["value"]


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Creates a folder and locks it for the processes of this run.

    Raises:
      UserError: in process 0, if another run has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with disk.locked(folder) if is_primary() else contextlib.nullcontext():
        yield


def asked_to_stop(step: int) -> bool:
    """Returns, in all processes at the same step, whether any received SIGTERM. Must be called at every step."""
    return is_multiprocess() and multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Explains failures that mean that other processes ended in the middle of a step.

    Raises:
      UserError: another process of this run has ended.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_multiprocess():
            raise
        raise UserError(
            f"another process of this run has ended or cannot be reached ({first_line(error)[:160]}); start "
            "all of them again with the same command to resume from the last checkpoint"
        ) from error
