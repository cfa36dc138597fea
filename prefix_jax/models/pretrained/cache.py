"""The user's cache directory: downloaded wheels, converted weights, tokenizers, compiled programs."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prefix_jax.errors import UserError


def cache_dir(*parts: str) -> Path:
    """Returns `<cache>/<parts...>`, made if it is absent.

    The cache is `$PREFIX_JAX_CACHE`, else `$XDG_CACHE_HOME/prefix_jax`, else `~/.cache/prefix_jax`.

    Raises:
      UserError: the directory cannot be made.
    """
    path = _root().joinpath(*parts)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _root() -> Path:
    if own := os.environ.get("PREFIX_JAX_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "prefix_jax"
    return Path.home() / ".cache" / "prefix_jax"


@contextlib.contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yields a temporary directory that becomes `target` when the block ends without an exception.

    Where another process has made `target` meanwhile, that one stays.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            # What stands there, if anything, is not whole: the caller looked.
            shutil.rmtree(target, ignore_errors=True)
            try:
                os.replace(temporary, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, missing rights and the like, met while writing `path`, into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UserError(
            f"cannot write {path}: {os.strerror(error.errno).lower()}; free it, or name another cache directory in "
            "$PREFIX_JAX_CACHE"
        ) from error


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
