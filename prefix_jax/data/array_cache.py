"""Cache of computed arrays in files, keyed by a hash of their inputs."""

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
    """Returns the arrays of `make`, cached in `folder` (None: no cache).

    A damaged file is rebuilt, with a line on stderr; a write error only logs a warning.

    Args:
      depends: inputs that determine the arrays (see `dependencies`).
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
    """Returns the arrays of a file, None if it is missing or damaged."""
    try:
        data = path.read_bytes()
        if not _as_written(data):
            raise ValueError("checksum mismatch")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return dict(file)
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_symlink():
            return None
        reason = "a broken link"
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


# The checksum is the zip file's comment: zip's own checksums are not verified if a damaged header shortens an array.
# The comment is at the end, after its length in two bytes.
def _with_checksum(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    data = buffer.getvalue()[:-2] + checksums.LENGTH.to_bytes(2, "little")
    return data + checksums.of_bytes(data).encode()


def _as_written(data: bytes) -> bool:
    whole = memoryview(data)
    return whole[-checksums.LENGTH :] == checksums.of_bytes(whole[: -checksums.LENGTH]).encode()
