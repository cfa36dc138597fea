"""What a command finds around it when it starts: streams, signals, warnings, variables, the current directory."""

import atexit
import contextlib
import errno
import io
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any, NoReturn

from prefix_jax.errors import UserError

INTERRUPTED = 130
_ENDING = False


def is_command() -> bool:
    """Returns whether this process is `python -m prefix_jax.NAME`, or a study."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in ("prefix_jax", "experiments")


def prepare() -> None:
    """Makes this process one that odd surroundings do not stop; to be called before anything slow is imported.

    Raises:
      UserError: the surroundings are such that nothing could work.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and is_command():
        # Texts and paths of the command line are UTF-8, as files are, whatever the locale says.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    _open_streams()
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, _interrupt)
        atexit.register(ending)
    # Warnings of libraries are for their authors: as errors they would stop every import.
    for number, (action, *rest) in enumerate(warnings.filters):
        if action == "error":
            warnings.filters[number] = ("default", *rest)  # type: ignore[index]
    _check_variables()


def ending() -> None:
    """From now on an interrupt ends the process at once: the interpreter is on its way out."""
    global _ENDING
    _ENDING = True


def leave(code: int) -> NoReturn:
    """Ends the process without the interpreter's clean-up."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, but not out of an import, where libraries make other errors of it, or abort."""
    while not _ENDING and frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if not _ENDING and frame is None:
        raise KeyboardInterrupt
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    leave(INTERRUPTED)


class Messages(io.TextIOWrapper):
    """A standard error that is closed, or on a full disk, stops nothing."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().flush()


class Results(io.TextIOWrapper):
    """A standard output that cannot be written is one sentence, once."""

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
            # What waits in buffers goes nowhere, so that the end of the process meets no second error.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(error, BrokenPipeError):
                raise
            reason = "it is closed" if error.errno == errno.EBADF else os.strerror(error.errno or errno.EIO).lower()
            raise UserError(f"cannot write to standard output: {reason}") from None


def _open_streams() -> None:
    """Gives the process its three streams where one is closed: else the next file opened would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Nothing can be written to the first two: results are not lost without a word.
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
    """Returns a stream's encoding if all texts can be written in it, else UTF-8, which files are in too."""
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
        raise UserError("the current directory is not there any more; change to another one") from None
    if sys.flags.optimize > 1:
        raise UserError("Python drops docstrings here (-OO, or PYTHONOPTIMIZE=2), and transformers needs them; use -O")
    flags = os.environ.get("XLA_FLAGS", "").split()
    if flags and not os.path.isfile(os.environ["XLA_FLAGS"].strip()):
        for word in flags:
            if not word.startswith("--xla_"):
                raise UserError(f'the variable XLA_FLAGS has "{word}"; its words must begin with --xla_')
