"""Checkpoints through orbax: the training state and the run's bookkeeping, never the base."""

import contextlib
import functools
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from prefix_jax.errors import UserError, first_line
from prefix_jax.parallel import hosts
from prefix_jax.training.step import State


class Checkpoints:
    """The checkpoints of one run, in `folder`; saves in the background, keeps the newest `keep`.

    A save that a kill cut short leaves nothing that counts as a checkpoint.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder, self._keep = folder.resolve(), keep
        self._drop_unfinished()
        with _disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()  # now, not after hours: it can be written

    def prepare(self) -> None:
        """Makes ready to save, which takes its time: the first step runs meanwhile."""
        _ = self._manager

    @functools.cached_property
    def _manager(self) -> Any:
        ocp = _orbax()
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, cleanup_tmp_directories=True)
        with _disk_errors(self._folder):
            return ocp.CheckpointManager(self._folder, options=options)

    def _drop_unfinished(self) -> None:
        """Removes step folders that hold no finished checkpoint: orbax would count them as steps."""
        if hosts.leader() and self._folder.is_dir():
            for step in self._folder.iterdir():
                if step.is_dir() and not (step / "_CHECKPOINT_METADATA").is_file():
                    shutil.rmtree(step)
        hosts.wait("unfinished checkpoints are gone")

    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint, before any is saved here; None where there is none."""
        finished = [int(step.name) for step in self._folder.iterdir() if step.name.isdigit()]
        newest = hosts.of_leader(max(finished, default=-1))  # file systems may not show all the same
        return None if newest < 0 else newest

    def save(self, state: State, best: PyTree, progress: dict[str, Any]) -> None:
        """Starts to save the state, the best trainable tree so far, and JSON values (data position, early stopping).

        Raises:
          UserError: the folder cannot be written, now or in the save before.
        """
        ocp, step = _orbax(), int(state.step)
        if step == self._manager.latest_step():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_tree(state, best)),
            progress=ocp.args.JsonSave(json.loads(json.dumps(progress))),
        )
        with _disk_errors(self._folder):
            self._manager.wait_until_finished()
            self._manager.save(step, args=args)

    def restore(self, like: State, best: PyTree) -> tuple[State, PyTree, dict[str, Any]]:
        """Returns the newest checkpoint, with shapes, types and shardings as in `like` and `best`."""
        ocp = _orbax()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like, best))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        try:
            restored: Any = self._manager.restore(self._manager.latest_step(), args=args)
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"the checkpoint in {self._folder} cannot be read ({first_line(error)}); "
                "delete that folder to start this run again"
            ) from error
        tree = dict(restored.state)
        best = tree.pop("best")
        return State(**tree), best, restored.progress

    def close(self) -> None:
        """Waits for the last save."""
        with _disk_errors(self._folder):
            self._manager.wait_until_finished()
        self._manager.close()


def _orbax() -> Any:
    """orbax is imported late: it is slow."""
    import orbax.checkpoint

    return orbax.checkpoint


def _tree(state: State, best: PyTree) -> dict[str, Any]:
    names = ("step", "trainable", "optimizer", "average", "key")
    return {name: getattr(state, name) for name in names} | {"best": best}


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) and "No space left" not in str(error):
            raise
        raise UserError(
            f"cannot save to {folder}: {first_line(error)}; make room or choose another --workdir, then run the same "
            "command again to go on from the last checkpoint"
        ) from error
