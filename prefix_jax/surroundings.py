"""Process environment of a command: streams, signals, warnings, environment variables, current directory."""

import atexit
import contextlib
import errno
import io
import os
import re
import signal
import sys
import warnings
from types import FrameType
from typing import Any, NoReturn

from prefix_jax import lean_imports
from prefix_jax.errors import UserError

INTERRUPTED = 130
_ENDING = False


def is_command() -> bool:
    """Returns whether this process runs `python -m prefix_jax.NAME` or a study."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in ("prefix_jax", "experiments")


def prepare() -> None:
    """Makes this process robust to unusual environments; call it before slow imports.

    Raises:
      UserError: the environment cannot support any command.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and is_command():
        # Command-line texts and paths are UTF-8, like files, regardless of the locale.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    _open_streams()
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, _interrupt)
        atexit.register(_ended)
    # Warnings of libraries are for their authors; turned into errors they would break every import.
    for number, (action, *rest) in enumerate(warnings.filters):
        if action == "error":
            warnings.filters[number] = ("default", *rest)  # type: ignore[index]
    _check_variables()
    if is_command():
        lean_imports.block_torch()


def ending() -> None:
    """Makes later interrupts end the process at once: the interpreter is shutting down."""
    global _ENDING
    _ENDING = True


def _ended() -> None:
    """Ignores later interrupts: the exit code is decided, and the interpreter's cleanup would restore the default."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """Ends the process without interpreter cleanup."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, except during an import, where libraries convert it into other errors or abort."""
    while not _ENDING and frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if not _ENDING and frame is None:
        raise KeyboardInterrupt
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    leave(INTERRUPTED)


# What a terminal would obey in messages that quote files and models; progress bars move and clear lines.
_OBEYED = re.compile("[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\x1b(?!\\[[AK])")


class Messages(io.TextIOWrapper):
    """Standard error that escapes control characters, and ignores write errors, such as a closed stream."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            super().write(_OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().flush()


class Results(io.TextIOWrapper):
    """Standard output that reports a write error in one sentence, once."""

    def write(self, text: str) -> int:
        with self._errors():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        if not self.closed:
            with self._errors():
                super().flush()

    @contextlib.contextmanager
    def _errors(self) -> Any:
        try:
            yield
        except OSError as error:
            # Discard buffered output so that closing the process does not raise a second error.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(error, BrokenPipeError):
                raise
            reason = "it is closed" if error.errno == errno.EBADF else os.strerror(error.errno or errno.EIO).lower()
            raise UserError(f"cannot write to standard output: {reason}") from None


def _open_streams() -> None:
    """Opens closed standard streams: otherwise the next opened file would take their descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The first two are opened read-only, so that lost results raise an error.
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = Results(_raw(1), encoding=_whole(sys.stdout), errors="backslashreplace", line_buffering=_tty(1))
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        sys.stderr = Messages(_raw(2), encoding=encoding, errors="backslashreplace", line_buffering=True)


def _raw(number: int) -> io.BufferedWriter:
    return io.BufferedWriter(io.FileIO(number, "w", closefd=False))


def _tty(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:
        return False


def _whole(stream: Any) -> str:
    """Returns a stream's encoding if it can represent every text, otherwise UTF-8, as for files."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        "é中😀".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return "utf-8"
    return encoding


def _check_variables() -> None:
    try:
        os.getcwd()
    except OSError:
        raise UserError("the current directory no longer exists; change to another one") from None
    if sys.flags.optimize > 1:
        raise UserError("Python runs without docstrings (-OO, or PYTHONOPTIMIZE=2), which transformers needs; use -O")
    flags = os.environ.get("XLA_FLAGS", "").split()
    if flags and not os.path.isfile(os.environ["XLA_FLAGS"].strip()):
        for word in flags:
            if not word.startswith("--xla_"):
                raise UserError(f'the environment variable XLA_FLAGS has "{word}"; each flag must begin with --xla_')
