"""A run directory: what ran is written beside its results, and another configuration is refused."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import prefix_jax
from prefix_jax.config import Config, default_config, flat
from prefix_jax.disk import write_text
from prefix_jax.errors import UserError
from prefix_jax.parallel import hosts

# What a resumed run may change: its length, its intervals and its logging, and how text is generated afterwards.
MAY_CHANGE = (
    "training.steps",
    "training.epochs",
    "training.log_every",
    "training.evaluate_every",
    "training.checkpoint_every",
    "training.tensorboard",
    "training.wandb",
    "data.path",
    "data.language",
    "decoding.",
    "evaluation.",
    "mesh.",
    "model.attention",
)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


def read_config(workdir: Path) -> dict[str, Any]:
    """Returns `config.json` of a run directory.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{workdir} is no run directory (it has no config.json); give the --workdir of a training run"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); train again into a new --workdir") from None


def earlier(workdir: Path, config: Config) -> dict[str, Any]:
    """Returns what `claim` wrote when the directory's run began; nothing where it is new.

    Raises:
      UserError: the directory holds a run with other options.
    """
    if (workdir / "sweep.json").exists():
        raise UserError(f"{workdir} holds a sweep; name another --workdir for a run")
    if not (workdir / "config.json").exists():
        return {}
    before = read_config(workdir)
    refuse_other(workdir, before["config"], json.loads(config.to_json()))
    return before


def claim(
    workdir: Path, config: Config, parameters: dict[str, int], words: Sequence[str], batch_shape: Sequence[int]
) -> None:
    """Writes `config.json`, unless the directory belongs to another configuration.

    `batch_shape` are a step's rows and the two capacities of a row: a resumed run keeps them, and so its batches, on
    whatever devices it goes on.

    Raises:
      UserError: the directory holds a run with other options.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {
        "config": json.loads(config.to_json()),
        "command": " ".join(words),
        "started": earlier(workdir, config).get("started", now),
        "batch_shape": list(batch_shape),
        "commit": commit(),
        "platform": f"{platform.platform()}, {os.cpu_count()} cores",
        "versions": versions(),
        "parameters": parameters,
    }
    if hosts.leader():
        write_text(workdir / "config.json", json.dumps(record, indent=2) + "\n")


def refuse_other(workdir: Path, before: dict, wanted: dict) -> None:
    """Raises UserError naming the options in which a run directory's configuration differs."""
    # An option that a run of an earlier version does not name had the value that is its default now.
    old, new = {**flat(json.loads(default_config().to_json())), **flat(before)}, flat(wanted)
    changed = [
        f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not name.startswith(MAY_CHANGE)
    ]
    if changed:
        shown = "; ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise UserError(f"{workdir} holds a run with another configuration ({shown}); choose another --workdir")


def versions() -> dict[str, str]:
    found = {"prefix_jax": prefix_jax.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Returns the commit of the source tree that runs, with "+" where it is changed; None outside a checkout."""
    folder = Path(prefix_jax.__file__).parent
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
