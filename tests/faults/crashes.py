"""Simulated ends of a process, or of the space on its disk, at the n-th change that Python makes below a folder.

The interpreter's audit events tell of every file that is opened for writing, renamed, removed or cut, in any thread,
before it happens; from the chosen one on, each raises an error.
"""

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Crash(BaseException):
    """The process is no more."""


class Changes:
    """The changes below a folder: what there were, and the number of the first that does not happen.

    `full`: the disk is full from there on, which stops no removal; else the process ends.
    """

    def __init__(self, folder: Path, last: int | None = None, full: bool = False) -> None:
        self.folder, self.last, self.full = str(folder), last, full
        self.seen: list[str] = []
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        return self.last is not None and len(self.seen) > self.last

    def tell(self, event: str, args: tuple[Any, ...]) -> None:
        paths = [os.fsdecode(one) for one in args[:2] if isinstance(one, (str, bytes, os.PathLike))]
        if not any(path.startswith(self.folder) for path in paths) or any(path.endswith(".lock") for path in paths):
            return
        with self._lock:
            self.seen.append(f"{event} {' '.join(path.removeprefix(self.folder) for path in paths)}")
            ended = self.ended
        if ended and not self.full:
            raise Crash(self.seen[-1])
        if ended and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), paths[0])


_active: Changes | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _active is None:
        return
    opened = event == "open" and isinstance(args[2], int) and args[2] & _WRITES
    if opened or event in _CHANGES:
        _active.tell(event, args[:1] if opened else args)


@contextlib.contextmanager
def watched(changes: Changes) -> Iterator[None]:
    """Watches changes in a block, in all threads."""
    global _active
    if not getattr(sys, "_prefix_jax_audited", False):
        sys.addaudithook(_hook)  # which cannot be taken away again
        sys._prefix_jax_audited = True  # type: ignore[attr-defined]
    _active = changes
    try:
        yield
    finally:
        _active = None
