"""Compiled programs in the cache, which JAX writes and reads: those that are damaged are removed before it does.

JAX names them by a hash of all that they depend on, but replaces none: it would warn of a damaged one in every run.
"""

import contextlib
import json
import zlib
from pathlib import Path

from prefix_jax import checksums
from prefix_jax.disk import make_way, replacing

_ZLIB = b"\x78"  # the first byte of what zlib made


def remove_damaged(folder: Path) -> None:
    """Removes the programs of a folder that are not as they were, with a line on stderr.

    Their checksums are kept beside the folder. A program without one is new, and is read through once.
    """
    book = folder.with_name(f"{folder.name}.json")
    known, found, damaged = _known(book), {}, []
    for path in folder.glob("*-cache"):
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        checksum = checksums.of_bytes(data)
        if known.get(path.name) == checksum or (path.name not in known and _is_whole(data)):
            found[path.name] = checksum
        else:
            damaged.append(path)
            make_way(path)
            with contextlib.suppress(OSError):
                path.unlink()
    if damaged:
        others = f", as are {len(damaged) - 1} others" if damaged[1:] else ""
        checksums.say_damaged(damaged[0], f"it is cut short or has another checksum{others}")
    if found != known:
        with contextlib.suppress(OSError), replacing(book) as file:
            file.write(json.dumps(found, indent=1).encode())


def _known(book: Path) -> dict[str, str]:
    try:
        known = json.loads(book.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _is_whole(data: bytes) -> bool:
    if not data.startswith(_ZLIB):
        return bool(data)  # compressed otherwise, where Python or a package offers that
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True
