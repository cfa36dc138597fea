"""Files that are written as a whole or not at all, whatever ends the process or fills the disk; lines read back."""

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

# What `replacing` makes: the file's name between a point and eight letters or digits.
_LEFTOVER = re.compile(r"\..+\.(json|jsonl|safetensors|html|md|txt|npz|svg|bin)-[a-z0-9_]{8}")


def lines(text: str) -> list[str]:
    """Returns the lines of a text, which end at "\\n" or "\\r\\n"; where there is no "\\n", at "\\r".

    `str.splitlines` also splits at U+2028, U+0085 and others, which a line may hold.
    """
    ended = text if "\n" in text else text.replace("\r", "\n")
    found = [line.removesuffix("\r") for line in ended.split("\n")]
    return found if found[-1] else found[:-1]


def read_json_lines(path: Path) -> list[Any]:
    """Returns the values of a file of JSON lines, as this product writes them.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not UTF-8, or a line is not JSON.
    """
    # As bytes: a text file's line ends would be translated.
    return [json.loads(line) for line in lines(path.read_bytes().decode("utf-8")) if line.strip()]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path`, whole and on the disk, when the block ends without an exception.

    Raises:
      OSError: it cannot be written; what was there before stays.
    """
    # Not by tempfile, whose files are for their owner alone: here the process' umask says who may read.
    temporary = path.parent / f".{path.name[:200]}-{secrets.token_hex(4)}"
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            _to_disk(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def drop_leftovers(*folders: Path) -> None:
    """Removes the temporary files that killed processes have left; to be called where no other process writes."""
    for folder in folders:
        for path in folder.glob(".*-*") if folder.is_dir() else ():
            if _LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.unlink()


def expanded(text: str) -> str:
    """Returns a path whose `~` or `~user` is a home directory.

    Raises:
      UserError: there is no such home.
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
    """Writes a file in UTF-8, and its folder if that is absent.

    Raises:
      UserError: it cannot be written; what was there before stays.
    """
    write_all(path.parent, {path.name: text.encode()})


def write_all(folder: str | os.PathLike, contents: Mapping[str, bytes]) -> None:
    """Writes files into a folder, made if absent; none is replaced before all of them are whole on the disk.

    Raises:
      UserError: the disk is full, or the folder cannot be written; what was there stays.
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
        raise UserError(f"cannot write {what}: {reason}; make room or choose another place") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the system lets go of it when the process ends, however it ends.

    Raises:
      UserError: another process holds it.
    """
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process works in {folder}; wait for it, or choose another --workdir") from None
        except (ImportError, OSError):
            pass  # a system or a file system without locks
        yield


def make_way(path: Path) -> None:
    """Removes a directory that is where a file is to be: a file or a link is replaced, a directory is not."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
