"""Atomic file writes, safe against killed processes and full disks; tolerant reading of lines."""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from prefix_jax.errors import UserError

# Levels of nested objects and lists in JSON.
_DEEPEST = 100
# Temporary names of `replacing`: the file's name between a dot and eight letters or digits.
_LEFTOVER = re.compile(r"\..+\.(json|jsonl|safetensors|html|md|txt|npz|svg|bin)-[a-z0-9_]{8}")


def lines(text: str) -> list[str]:
    """Returns the lines of a text, split at "\\n" or "\\r\\n", or at "\\r" if the text has no "\\n".

    `str.splitlines` also splits at U+2028, U+0085 and others, which may occur inside a line.
    """
    ended = text if "\n" in text else text.replace("\r", "\n")
    found = [line.removesuffix("\r") for line in ended.split("\n")]
    return found if found[-1] else found[:-1]


def from_json(content: bytes | str) -> Any:
    """Returns the value of JSON text in a small file: a configuration, a header, a record.

    Raises:
      ValueError: it is not JSON or not UTF-8, is nested too deeply, or has a whole number of more than 64 bits.
    """
    with contextlib.suppress(RecursionError):
        value = json.loads(content, parse_int=_whole_number)
        if not is_deep(value):
            return value
    raise ValueError("it is nested too deeply")


def is_deep(value: Any) -> bool:
    """Returns whether a value of JSON is nested more deeply than functions that call themselves can follow."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [child for children in inner for child in children]
        if not level:
            return False
    return True


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) >= 2**64:
        raise ValueError(f"a whole number has {len(digits)} digits")
    return number


def read_json_lines(path: Path) -> list[Any]:
    """Returns the values of a JSON Lines file in the form this package writes.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is not UTF-8, or a line is not JSON.
    """
    # Read as bytes: text mode would translate line endings.
    return [from_json(line) for line in lines(path.read_bytes().decode("utf-8")) if line.strip()]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that atomically replaces `path` when the block ends without an exception; it then outlasts a power
    loss too.

    Raises:
      OSError: the file cannot be written; an existing one is left unchanged.
    """
    # Not tempfile, which makes files private to their owner: the umask decides the permissions here.
    temporary = path.parent / f".{path.name[:200]}-{secrets.token_hex(4)}"
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            _to_disk(file)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def drop_leftovers(*folders: Path) -> None:
    """Removes temporary files left by killed processes; call it only where no other process writes."""
    for folder in folders:
        for path in folder.glob(".*-*") if folder.is_dir() else ():
            if _LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.unlink()


def expanded(text: str) -> str:
    """Expands `~` or `~user` at the start of a path.

    Raises:
      UserError: the home directory is unknown.
    """
    if not text.startswith("~"):
        return text
    found = os.path.expanduser(text)
    if found == text:
        user = text.split("/")[0]
        known = f"there is no user {user[1:]}" if user[1:] else "the home directory is unknown"
        raise UserError(f'"{text}": {known}; write the path out')
    return found


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically, creating its folder if absent.

    Raises:
      UserError: the file cannot be written; an existing one is left unchanged.
    """
    write_all(path.parent, {path.name: text.encode()})


def write_all(folder: str | os.PathLike, contents: Mapping[str, bytes]) -> None:
    """Writes files into a folder, created if absent; replaces none before all are synced to disk.

    Raises:
      UserError: the disk is full, or the folder cannot be written; existing files are left unchanged.
    """
    folder = Path(folder)
    what = f"to {folder}" if len(contents) != 1 else folder / next(iter(contents))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            for name, content in contents.items():
                file = stack.enter_context(replacing(folder / name))
                file.write(content)
                _to_disk(file)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise UserError(f"cannot write {what}: {reason}; free some space or choose another location") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder for this process; the operating system releases the lock however the process ends.

    Raises:
      UserError: another process holds the lock.
    """
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is using {folder}; wait for it, or choose another --workdir") from None
        except (ImportError, OSError):
            pass  # the platform or file system has no locks
        yield


def make_way(path: Path) -> None:
    """Removes a directory in place of a file to be written: `os.replace` overwrites files and links only."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder (new files, renames), are on disk, where the system can say so."""
    with contextlib.suppress(OSError):  # file systems without it, and Windows
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_below(folder: Path) -> None:
    """Waits until all files and folders below one are on disk, as `sync`."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
