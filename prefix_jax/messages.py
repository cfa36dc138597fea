"""What a command says on stderr: all of it, warnings and errors alone (`--quiet`), or JSON lines (`--log=json`)."""

import contextlib
import datetime
import io
import itertools
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefix_jax import disk

_LEVEL_WORDS = {"error:": "error", "warning:": "warning"}


class Lines(io.TextIOBase):
    """A stream in place of stderr that writes whole lines, in the form asked for.

    With `as_json` a line is an object with `time` (UTC), `level`, `command`, and `message` or `progress`; lines that
    are JSON objects already are kept. With `quiet` only warnings and errors are written.
    """

    def __init__(self, stream: Any, command: str, quiet: bool, as_json: bool):
        self._stream, self._command, self._quiet, self._json, self._rest = stream, command, quiet, as_json, ""

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if text.lower().startswith(tuple(_LEVEL_WORDS)):
            self.finish()  # it does not continue the line before
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._line(line.rpartition("\r")[2])
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def progress(self, label: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Reports that `step` of `steps` is done, with the values that a progress bar shows."""
        if self._json and not self._quiet:
            self._event("info", progress={"label": label, "step": step, "steps": steps, **values})

    def failed(self, error: BaseException) -> None:
        """Reports an error that nothing has turned into a sentence."""
        if self._json:
            self._event("error", message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        else:
            self._stream.write(traceback.format_exc())
            self._stream.flush()

    def finish(self) -> None:
        """Writes a last line without its end."""
        if self._rest.strip():
            self.write("\n")

    def _line(self, line: str) -> None:
        level = _LEVEL_WORDS.get(line.partition(" ")[0].lower(), "info")
        if not line.strip() or (self._quiet and level == "info"):
            return
        if not self._json or _is_object(line):
            self._stream.write(f"{line}\n")
            self._stream.flush()
        else:
            self._event(level, message=line if level == "info" else line.partition(" ")[2])

    def _event(self, level: str, **said: Any) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        event = {"time": now, "level": level, "command": self._command, **said}
        self._stream.write(f"{json.dumps(event, ensure_ascii=False, default=str)}\n")
        self._stream.flush()


def asked(words: Sequence[str]) -> tuple[bool, bool]:
    """Returns whether a command line asks for `--quiet` and for `--log=json`, before it is parsed."""
    words = list(words[: words.index("--")] if "--" in words else words)
    pairs = itertools.pairwise([*words, ""])
    as_json = any(word in ("--log=json", "-log=json") or (word in ("--log", "-log") and after == "json")
                  for word, after in pairs)  # fmt: skip
    return any(word in ("--quiet", "-quiet", "--quiet=true") for word in words), as_json


@contextlib.contextmanager
def installed(command: str, quiet: bool, as_json: bool) -> Iterator[None]:
    """Makes stderr such a stream within a block; an error that leaves it is reported, and ends with exit code 1."""
    if not (quiet or as_json):
        yield
        return
    before = sys.stderr
    stream = Lines(before, command, quiet, as_json)
    sys.stderr = stream  # type: ignore[assignment]
    try:
        yield
    except Exception as error:
        stream.failed(error)
        raise SystemExit(1) from None
    finally:
        stream.finish()
        sys.stderr = before


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(disk.from_json(line), dict)
    except ValueError:
        return False
