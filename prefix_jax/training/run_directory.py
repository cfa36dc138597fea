"""Run directories: records the configuration beside the results, and rejects a different one."""

import datetime
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import prefix_jax
from prefix_jax.errors import UserError
from prefix_jax.options import Config
from prefix_jax.parallel import distributed
from prefix_jax.training import sameness
from prefix_jax.workdir import is_run, is_sweep, read_config, write_config

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def earlier(workdir: Path, config: Config, ground: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the record that `claim` wrote when the run began; empty for a new directory.

    `ground` is the result of `sameness.ground` for the loaded model.

    Raises:
      UserError: the directory holds a run with different options.
    """
    if is_sweep(workdir):
        raise UserError(f"{workdir} holds a sweep; name another --workdir for a run")
    if not is_run(workdir):
        return {}
    before = read_config(workdir)
    sameness.refuse_other(workdir, before, json.loads(config.to_json()), ground)
    return before


def claim(
    workdir: Path,
    config: Config,
    parameters: dict[str, int],
    argv: Sequence[str],
    batch_shape: Sequence[int],
    ground: Mapping[str, Any] | None = None,
    audit: dict[str, Any] | None = None,
    inputs: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Writes `config.json`, unless the directory belongs to a different configuration.

    `batch_shape` are the rows of a step and the two capacities of a row: a resumed run keeps them, and so its batches,
    on any devices. `ground` identifies the model and the tokenizer (see `sameness.ground`); a resumed run keeps the
    original tokenizer's, so that an edit is reported every time. `audit` are the findings about the data, and `inputs`
    the hashes of their files, by split.

    Raises:
      UserError: the directory holds a run with different options.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    before, on = earlier(workdir, config, ground), ground or {}
    record = {
        "config": json.loads(config.to_json()),
        "command": shlex.join(argv),
        "started": before.get("started", now),
        "batch_shape": list(batch_shape),
        "commit": commit(),
        "platform": f"{platform.platform()}, {os.cpu_count()} cores",
        "versions": versions(),
        "parameters": parameters,
        **on,
        **({"tokenizer": before["tokenizer"]} if before.get("tokenizer") else {}),
        "inputs": dict(inputs or {}),
        "audit": audit or {},
    }
    if distributed.is_primary():
        write_config(workdir, record)


def versions() -> dict[str, str]:
    found = {"prefix_jax": prefix_jax.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Returns the commit of the source tree, with "+" for uncommitted changes; None outside a checkout."""
    folder = Path(prefix_jax.__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *argv: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *argv], capture_output=True, text=True, check=True)
    return done.stdout.strip()
