"""Checkpoints through orbax: the training state and the run's progress, never the base."""

import contextlib
import functools
import glob
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jaxtyping import PyTree

from prefix_jax import disk
from prefix_jax.errors import UserError, first_line
from prefix_jax.parallel import distributed
from prefix_jax.training import soundness
from prefix_jax.training.soundness import Damaged
from prefix_jax.training.step import TrainState
from prefix_jax.workdir import CHECKPOINTS

# Seconds that the end of a failed run waits for a multi-process save, some of whose processes may be gone.
_PATIENCE_SECONDS = 60
_UNFINISHED = ".orbax-checkpoint-tmp"
# Error messages that do not mean that a checkpoint is damaged.
_NOT_DAMAGE = ("PERMISSION_DENIED", "Permission denied", "Too many open files")

Restored = tuple[TrainState, PyTree, dict[str, Any]]


class Checkpoints:
    """The checkpoints of one run, in `folder`; saves in the background and keeps the newest `keep`.

    An interrupted save leaves nothing that counts as a checkpoint. Leaving a `with` block, normally or not, finishes
    pending saves.

    Args:
      folder: directory of the checkpoints; created if absent.
      options: options of the run, or of each run in a group trained together, which identify checkpoints of other
        runs.
      keep: number of checkpoints to keep.

    Raises:
      UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, options: Sequence[Mapping[str, Any]] = (), keep: int = 2) -> None:
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax also logs the errors that it raises
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._folder, self._options, self._keep = folder.resolve(), list(options), keep
            self._damaged = self._sorted_out()
            tempfile.TemporaryFile(dir=self._folder).close()  # fails now, not after hours, if it is not writable
        self._link: Path | None = None
        self._synced = -1

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._give_up()

    def prepare(self) -> None:
        """Prepares for saving, which is slow: the first step runs meanwhile."""
        _ = self._manager

    @functools.cached_property
    def _manager(self) -> Any:
        ocp = _orbax()
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, cleanup_tmp_directories=True)
        with _disk_errors(self._folder):
            return ocp.CheckpointManager(self._for_orbax(), options=options)

    def _for_orbax(self) -> Path:
        """Returns a path of the folder without glob characters, which orbax would interpret."""
        if glob.escape(str(self._folder)) == str(self._folder):
            return self._folder
        if self._link is None or not self._link.exists():
            self._link = _linked(self._folder)
        return self._link

    def _sorted_out(self) -> list[int | str]:
        """Removes leftovers of unfinished saves and deletions; returns what occupies the place of a step."""
        if not distributed.is_primary():
            return []
        found = list(self._folder.iterdir())
        whole = [_number(path) for path in found if (path / "_CHECKPOINT_METADATA").is_file()]
        newest, damaged = max((step for step in whole if step is not None), default=-1), []
        for path in found:
            step = _number(path)
            if _UNFINISHED in path.name or (_empty(path) and step is not None):
                shutil.rmtree(path)
            elif step is not None and not (path / "_CHECKPOINT_METADATA").is_file():
                if step < newest and path.is_dir():
                    shutil.rmtree(path)  # all but the newest `keep` are deleted; a kill may have interrupted that
                else:
                    damaged.append(step)
            elif step is None and path.name.rpartition("_")[2].isdigit():
                damaged.append(path.name)  # orbax would count it as a step
        return damaged

    def _steps(self) -> list[int]:
        """Returns the steps with a checkpoint, newest first."""
        steps = [_number(path) for path in self._folder.iterdir()]
        return sorted((step for step in steps if step is not None and step not in self._damaged), reverse=True)

    def save(self, state: TrainState, best: PyTree, progress: dict[str, Any]) -> None:
        """Starts saving the state, the best trainable tree so far, and JSON values (data position, early stopping).

        Raises:
          UserError: the folder cannot be written, now or during the previous save.
        """
        ocp, step = _orbax(), int(state.step)
        if step == self._manager.latest_step():
            return
        tree = _tree(state, best)
        values = soundness.sealed(tree, {**progress, "options": self._options})
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), progress=ocp.args.JsonSave(values))
        with _disk_errors(self._folder):
            self._for_orbax()
            self._finish()
            self._manager.save(step, args=args)

    def _finish(self) -> None:
        """Waits for the save before, until it outlasts a power loss: the next one removes what is older."""
        self._manager.wait_until_finished()
        self._sync()

    def _sync(self) -> None:
        """Syncs the newest checkpoint, of which orbax syncs the arrays alone."""
        if distributed.is_primary() and (steps := self._steps()) and steps[0] != self._synced:
            disk.sync_below(self._folder / str(steps[0]))
            disk.sync(self._folder)
            self._synced = steps[0]

    def restore(self, like: TrainState, best: PyTree) -> Restored | None:
        """Returns the newest intact checkpoint, with the shapes, dtypes and shardings of `like` and `best`.

        Newer damaged ones are renamed, with a line on stderr. Returns None if there is no checkpoint.

        Raises:
          UserError: all are damaged, or the newest belongs to another run.
        """
        tree = _tree(like, best)
        restored, damage = self._agreed(tree) if distributed.is_multiprocess() else self._newest_sound(tree)
        if distributed.is_primary():
            self._set_aside(damage)
        distributed.barrier("damaged checkpoints are renamed")
        return restored

    def _agreed(self, like: PyTree) -> tuple[Restored | None, dict[int | str, str]]:
        """Runs `_newest_sound` with the same result in all processes.

        Process 0 reads first, alone: if each process found damage separately, they would wait for each other.
        """
        step, damage, error = -1, {}, UserError("process 0 could read no checkpoint; its own message says why")
        if distributed.is_primary():
            try:
                restored, damage = self._newest_sound(like, alone=True)
                step = -1 if restored is None else restored[2]["next_step"]
            except UserError as refused:
                step, error = -2, refused
        step = distributed.of_primary(step)
        if step == -2:
            raise error
        try:
            return None if step < 0 else self._read(step, like), damage
        except Damaged as found:
            raise UserError(f"{self._folder / str(step)} could not be read here ({found}), but in process 0") from found

    def _newest_sound(self, like: PyTree, alone: bool = False) -> tuple[Restored | None, dict[int | str, str]]:
        """Returns the newest intact checkpoint, and the damage of newer ones."""
        damage: dict[int | str, str] = dict.fromkeys(self._damaged, "there is no checkpoint in it")
        for step in self._steps():
            try:
                return self._read(step, like, alone), damage
            except Damaged as error:
                damage[step] = str(error)
        if damage:
            raise self._nothing_left(damage)
        return None, damage

    def _read(self, step: int, like: PyTree, alone: bool = False) -> Restored:
        """Returns a checkpoint after all checks.

        Raises:
          Damaged: it differs from what was saved.
          UserError: it belongs to another run, or cannot be read for lack of permission.
        """
        ocp, path = _orbax(), self._for_orbax() / str(step)
        with self._damage(step), _reader(alone) as reader:
            values = reader.restore(path, args=ocp.args.Composite(progress=ocp.args.JsonRestore())).progress
        soundness.check_progress(values, step)
        differing = soundness.differing(values.get("options", self._options), self._options)
        if differing:
            shown = "; ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
            raise UserError(
                f"{self._folder / str(step)} is the checkpoint of another run ({shown}); move it away, or choose "
                "another --workdir"
            )
        with self._damage(step), _reader(alone) as reader:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(_abstract(like, alone)))
            tree = dict(reader.restore(path, args=args).state)
            _compare_shapes(tree, like)
        soundness.verify(tree, values)
        best = tree.pop("best")
        return TrainState(**tree), best, values

    @contextlib.contextmanager
    def _damage(self, step: int) -> Iterator[None]:
        """Converts any exception of orbax into `Damaged`."""
        try:
            yield
        except Damaged:
            raise
        except Exception as error:
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise
            if any(words in str(error) for words in _NOT_DAMAGE):
                raise UserError(f"{self._folder / str(step)} cannot be read: {_first_line(error)}") from error
            raise Damaged(_first_line(error)) from error

    def _set_aside(self, damage: Mapping[int | str, str]) -> None:
        for step, why in damage.items():
            path, number = self._folder / str(step), 1
            kept = self._folder / f"damaged-{_without_steps(step)}"
            while os.path.lexists(kept):
                number += 1
                kept = self._folder / f"damaged-{_without_steps(step)}-{number}"
            with _disk_errors(self._folder):
                os.rename(path, kept)
            print(
                f"the checkpoint {path} is damaged ({why}); it is now {kept.name}, and the one before it is used",
                file=sys.stderr,
            )

    def _nothing_left(self, damage: Mapping[int | str, str]) -> UserError:
        paths = [f"{self._folder / str(step)} ({why})" for step, why in damage.items()]
        return UserError(
            f"no checkpoint can be read: {', '.join(paths)}; restore a copy of one, or delete {self._folder} to start "
            "this run again"
        )

    def close(self) -> None:
        """Waits for the last save."""
        try:
            if "_manager" in self.__dict__:
                manager = self.__dict__.pop("_manager")
                with _disk_errors(self._folder):
                    manager.wait_until_finished()
                manager.close()
                self._sync()
        finally:
            self._unlink()

    def _give_up(self) -> None:
        """Finishes pending saves, ignoring their errors, which would hide the error that ends the run."""

        def finish() -> None:
            with contextlib.suppress(Exception):
                self.close()

        if not distributed.is_multiprocess():
            finish()
            return
        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        thread.join(_PATIENCE_SECONDS)

    def _unlink(self) -> None:
        if self._link is not None:
            shutil.rmtree(self._link.parent, ignore_errors=True)
            self._link = None


def _orbax() -> Any:
    """Imports orbax lazily, because its import is slow."""
    import orbax.checkpoint

    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    return orbax.checkpoint


def _unraisable(error: Any) -> None:
    """Silences exceptions that orbax's coroutines raise again when they are garbage-collected."""
    trace, files = error.exc_traceback, []
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    if not any(f"{os.sep}orbax{os.sep}" in file for file in files):
        sys.__unraisablehook__(error)


@contextlib.contextmanager
def _reader(alone: bool) -> Iterator[Any]:
    """Yields a reader of one checkpoint; `alone`: in this process only."""
    ocp = _orbax()
    options = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index() if alone else 0, active_processes={jax.process_index()} if alone else None
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options) if alone else ocp.CompositeOptions()
    )
    reader = ocp.Checkpointer(handler, multiprocessing_options=options)
    try:
        yield reader
    finally:
        reader.close()


def _linked(folder: Path) -> Path:
    """Returns a link to a folder, in a temporary folder whose path has no glob characters."""
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if glob.escape(place) == place and os.access(place, os.W_OK):
            link = Path(tempfile.mkdtemp(prefix="prefix_jax-", dir=place)) / CHECKPOINTS
            link.symlink_to(folder, target_is_directory=True)
            return link
    character = next(c for c in str(folder) if c in "[]*?")
    raise UserError(f'{folder} has a "{character}" in it, which checkpoints cannot have; choose another --workdir')


def _number(path: Path) -> int | None:
    """Returns the step in a path's name; None for other names."""
    return int(path.name) if re.fullmatch("0|[1-9][0-9]{0,17}", path.name) else None


def _without_steps(name: int | str) -> str:
    """Returns a name that orbax does not parse as a step."""
    return str(name).replace("_", "-")


def _empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(p for p in path.rglob("*") if not p.is_dir())


def _abstract(tree: PyTree, alone: bool) -> PyTree:
    """Returns shapes, dtypes and shardings for orbax; `alone`: on a device of this process only."""
    abstract = jax.tree.map(_orbax().utils.to_shape_dtype_struct, tree)
    if not alone:
        return abstract
    here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), abstract)


def _compare_shapes(tree: PyTree, like: PyTree) -> None:
    found, wanted = (
        [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in jax.tree_util.tree_leaves_with_path(t)]
        for t in (tree, like)
    )
    if found != wanted:
        raise Damaged("its arrays are not those of this run")


def _tree(state: TrainState, best: PyTree) -> dict[str, Any]:
    names = ("step", "trainable", "optimizer", "average", "key")
    return {name: getattr(state, name) for name in names} | {"best": best}


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).split("\n")[0]
    return "an array cannot be read" if line.startswith("Encountered error while reading array") else line[:200]


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) and "No space left" not in str(error):
            raise
        raise UserError(
            f"cannot save to {folder}: {first_line(error)}; free some space or choose another --workdir, then run the "
            "same command again to resume from the last checkpoint"
        ) from error
