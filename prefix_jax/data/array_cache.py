"""Arrays that cost time to make, kept in files under a hash of all that decides them."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from prefix_jax.disk import replacing

_LOG = logging.getLogger(__name__)
Arrays = Mapping[str, np.ndarray]


def kept(folder: Path | None, parts: Iterable[bytes], make: Callable[[], Arrays]) -> Arrays:
    """Returns what `make` returns, read from `folder` where it was made before from the same parts (None: no cache).

    A file that is damaged is made again; one that cannot be written costs time, not the run.
    """
    if folder is None:
        return make()
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d\n" % len(part) + part)
    path = folder / f"{digest.hexdigest()[:40]}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = make()
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    """Returns what a file holds, None where it is missing or broken (zip's checksums tell)."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    # A damaged zip raises BadZipFile, zlib.error, ValueError, EOFError, KeyError, OSError ...
    except Exception as error:
        _LOG.warning("%s is damaged (%s) and will be made again.", path, error)
        return None


def _write(path: Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        _LOG.warning("%s was not written (%s).", path, error.strerror or error)
