"""Checksums of cached files; the only module that imports xxhash.

XXH3 detects damage, not tampering, at 0.03 seconds per gigabyte, so every cache file is verified on each read.
"""

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

# Length of a checksum in characters.
LENGTH = 32


def running() -> Any:
    """Returns an incremental hash with `update(bytes)` and `hexdigest()`."""
    return xxhash.xxh3_128()


def of_bytes(data: Any) -> str:
    """Returns the checksum of bytes or of any object with a buffer."""
    return xxhash.xxh3_128_hexdigest(data)


def of_file(path: Path) -> str:
    """Returns the checksum of a file's contents.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            return of_bytes(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return of_bytes(mapped)


def of_files(folder: Path) -> dict[str, str]:
    """Returns the checksum of each file below a folder, keyed by relative path.

    Raises:
      OSError: a file cannot be read.
    """
    return {file.relative_to(folder).as_posix(): of_file(file) for file in _files(folder)}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def say_damaged(path: Path, reason: str) -> None:
    """Reports on stderr why a cache entry is rebuilt."""
    print(f"{path} in the cache is damaged ({reason}) and will be rebuilt.", file=sys.stderr)
