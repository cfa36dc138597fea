"""Arrays that cost time to make, kept in files under a hash of all that they depend on."""

import io
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prefix_jax import checksums, dependencies
from prefix_jax.disk import make_way, replacing

_LOG = logging.getLogger(__name__)
Arrays = Mapping[str, np.ndarray]


def kept(folder: Path | None, depends: Any, make: Callable[[], Arrays]) -> Arrays:
    """Returns what `make` returns, read from `folder` where it was made before from the same things (None: no cache).

    A file that is damaged is made again, with a line on stderr; one that cannot be written costs time, not the run.

    Args:
      depends: all that decides the arrays (see `dependencies`).
    """
    if folder is None:
        return make()
    path = folder / f"{dependencies.key(depends)}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = make()
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    """Returns what a file holds, None where it is missing or damaged."""
    try:
        data = path.read_bytes()
        if not _as_written(data):
            raise ValueError("its checksum is another")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return dict(file)
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_symlink():
            return None
        reason = "a link to nothing"
    # A damaged zip raises BadZipFile, zlib.error, ValueError, EOFError, KeyError, OSError ...
    except Exception as error:
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
    checksums.say_damaged(path, reason)
    make_way(path)
    return None


def _write(path: Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(_with_checksum(arrays))
    except OSError as error:
        _LOG.warning("%s was not written (%s).", path, error.strerror or error)


# The checksum is the zip file's comment: the sums that zip has of its own are not verified where a damaged header says
# that an array is shorter. A comment stands at the end, after its length in two bytes.
def _with_checksum(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    data = buffer.getvalue()[:-2] + checksums.LENGTH.to_bytes(2, "little")
    return data + checksums.of_bytes(data).encode()


def _as_written(data: bytes) -> bool:
    whole = memoryview(data)
    return whole[-checksums.LENGTH :] == checksums.of_bytes(whole[: -checksums.LENGTH]).encode()
