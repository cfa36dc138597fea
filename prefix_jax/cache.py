"""The user's cache directory: wheels, converted weights, tokenizers, token ids, packing plans, compiled programs."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from prefix_jax import checksums
from prefix_jax.disk import from_json
from prefix_jax.errors import UserError

# Name of the checksum file in each directory of `kept_directory`.
_CHECKSUMS = "checksums.json"


def cache_dir(*parts: str) -> Path:
    """Creates the directory `cache_path(...)` if absent, and returns it.

    Raises:
      UserError: the directory cannot be created.
    """
    path = cache_path(*parts)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def cache_path(*parts: str) -> Path:
    """Returns `<cache>/<parts...>`, whether or not it exists.

    The cache is `$PREFIX_JAX_CACHE`, else `$XDG_CACHE_HOME/prefix_jax`, else `~/.cache/prefix_jax`.
    """
    if own := os.environ.get("PREFIX_JAX_CACHE"):
        return Path(own).expanduser().joinpath(*parts)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser().joinpath("prefix_jax", *parts)
    return Path.home().joinpath(".cache", "prefix_jax", *parts)


def kept_directory(target: Path, make: Callable[[Path], None]) -> Path:
    """Returns a cache directory with the files that `make` writes into an empty one.

    Every file is verified against its checksum. A damaged directory is rebuilt, with a line on stderr.

    Raises:
      UserError: the cache cannot be written, or any error of `make`.
    """
    reason = damage(target)
    if reason is None:
        return target
    if os.path.lexists(target):
        checksums.say_damaged(target, reason)
    with new_directory(target, lambda: damage(target) is None) as temporary:
        make(temporary)
        made = json.dumps(checksums.of_files(temporary), indent=1)
        (temporary / _CHECKSUMS).write_text(made, encoding="utf-8")
    return target


def damage(folder: Path) -> str | None:
    """Returns a description of the damage to a directory of `kept_directory`; None if its files are intact."""
    try:
        expected = from_json((folder / _CHECKSUMS).read_bytes())
        found = checksums.of_files(folder)
    except OSError as error:
        return os.strerror(error.errno or errno.EIO).lower()
    except ValueError:
        return f"{_CHECKSUMS} is not JSON"
    found.pop(_CHECKSUMS, None)
    if not isinstance(expected, dict) or not expected:
        return f"{_CHECKSUMS} lists no files"
    for name, checksum in expected.items():
        if found.pop(name, None) != checksum:
            return f"{name} has a checksum mismatch"
    added = [name for name in found if not name.startswith(".")]
    return f"{added[0]} was added" if added else None


@contextlib.contextmanager
def new_directory(target: Path, whole: Callable[[], bool]) -> Iterator[Path]:
    """Yields a temporary directory that becomes `target` if the block ends without an exception.

    If another process has created `target` meanwhile and it is `whole`, it is kept, because it may be in use.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            with _one_at_a_time(target.parent):
                if not whole():
                    _exchange(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Excludes other processes from such a block for the same folder, on systems with file locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _exchange(temporary: Path, target: Path) -> None:
    """Replaces a directory; nothing exists under its name for the duration of two renames at most."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent, ignore_cleanup_errors=True) as old:
        with contextlib.suppress(FileNotFoundError):
            os.replace(target, Path(old, "old"))
        try:
            os.replace(temporary, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # of another process
                raise


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Converts OS errors while writing `path` (full disk, missing permissions) into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UserError(
            f"cannot write {path}: {os.strerror(error.errno).lower()}; free some space, or name another cache "
            "directory in $PREFIX_JAX_CACHE"
        ) from error


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EBUSY}
_DISK |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP, errno.ENAMETOOLONG, errno.ESTALE}
