"""JAX's compilation cache in the user's cache directory; damaged programs are removed before JAX reads them.

JAX names programs by a hash of their inputs but never replaces one, so a damaged file would cause a warning every run.
"""

import contextlib
import json
import os
import zlib
from pathlib import Path

from prefix_jax import checksums
from prefix_jax.cache import cache_dir
from prefix_jax.disk import from_json, make_way, replacing

_ZLIB = b"\x78"  # first byte of zlib data


def keep_programs() -> None:
    """Enables JAX's compilation cache, in the cache directory unless `$JAX_COMPILATION_CACHE_DIR` is set."""
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_dir("compiled")
    remove_damaged(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def remove_damaged(folder: Path) -> None:
    """Removes damaged programs from a folder, with a line on stderr.

    Checksums are stored beside the folder. A program without a checksum is new, and is decompressed once.
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
        checksums.say_damaged(damaged[0], f"truncated, or checksum mismatch{others}")
    if found != known:
        with contextlib.suppress(OSError), replacing(book) as file:
            file.write(json.dumps(found, indent=1).encode())


def _known(book: Path) -> dict[str, str]:
    try:
        known = from_json(book.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _is_whole(data: bytes) -> bool:
    if not data.startswith(_ZLIB):
        return bool(data)  # another compression, available in some versions of Python or with a package
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True
