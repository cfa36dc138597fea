"""Training progress: a bar on terminals, plain lines in log files."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

BAR_WIDTH = 24


class Progress:
    """Shows step, percentage, losses, target tokens per second and remaining time, on stderr.

    On a terminal and in a notebook, one line is redrawn in place from the start; elsewhere a plain line without control
    characters is printed about every 10 % of the steps and at least every `line_seconds` seconds.

        with Progress(total=3000, start=0, label="train") as progress:
            progress.update(step, {"loss": 1.23, "tokens_per_second": 3120.0})

    Args:
        total: last step.
        start: steps already done (those of the checkpoint when resuming).
        label: first word of the line.
        shown: names of the values to show, in order.
        stream: output stream; None: `sys.stderr` at entry.
        clock: monotonic clock, in seconds.
        line_seconds: maximum silence on a non-terminal, in seconds.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        label: str = "",
        *,
        shown: Sequence[str] = ("loss", "validation_loss", "tokens_per_second"),
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
        line_seconds: float = 30.0,
    ):
        self.total, self.start, self.label, self.shown = total, start, label, shown
        self._stream = sys.stderr if stream is None else stream
        self._notebook = _is_notebook(self._stream)
        self._terminal = self._notebook or _is_terminal(self._stream)
        self._width = 0
        self._clock, self._line_seconds = clock, line_seconds
        self._step = start
        self._values: dict[str, float] = {}
        self._began = self._drawn_at = clock()
        # Speed is measured from the first update, because the time before it is compilation.
        self._first: tuple[int, float] | None = None
        self._drawn_step: int | None = None

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Reports that `step` is done, with the latest values; values not given keep their previous ones."""
        now = self._clock()
        self._step = step
        self._values.update(values or {})
        if self._first is None:
            self._first = (step, now)
        if self._due(now):
            self._draw(now)

    def __enter__(self) -> "Progress":
        if self._terminal and self.start < self.total:
            self._draw(self._began)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first is not None and self._drawn_step != self._step:
            self._draw(self._clock())
        if self._terminal and self._drawn_step is not None:
            self._put("\n")

    def _due(self, now: float) -> bool:
        if self._drawn_step is None or self._step >= self.total:
            return self._drawn_step != self._step
        if self._terminal:
            return now - self._drawn_at >= 0.1
        tenth = max(self.total - self.start, 1) / 10
        crossed = (self._step - self.start) // tenth > (self._drawn_step - self.start) // tenth
        return crossed or now - self._drawn_at >= self._line_seconds

    def _draw(self, now: float) -> None:
        self._drawn_at, self._drawn_step = now, self._step
        if report := getattr(self._stream, "progress", None):  # a stream of events rather than of text
            values = {name: self._values[name] for name in self.shown if name in self._values}
            report(self.label, self._step, self.total, values)
            return
        fields = self._fields(now)
        if not self._terminal:
            self._put("  ".join(fields) + "\n")
            return
        columns = _columns(self._stream)
        rest = "  ".join(fields[1:])
        # One column stays free, because some terminals wrap a line that fills the last one.
        room = columns - 1 - len(fields[0]) - len(rest) - 4
        middle = [self._bar(min(room, BAR_WIDTH))] if room >= 6 else []
        line = "  ".join([fields[0], *middle, rest])[: columns - 1]
        self._put(f"\r{self._padded(line)}" if self._notebook else f"\r{line}\x1b[K")

    def _padded(self, line: str) -> str:
        """Returns a line that covers the one before: notebooks know no escape sequence that clears it."""
        before, self._width = self._width, len(line)
        return line.ljust(before)

    def _fields(self, now: float) -> list[str]:
        share = self._step / self.total if self.total else 1.0
        fields = [self.label] if self.label else []
        fields.append(f"{self._step:,}/{self.total:,} {share:4.0%}")
        fields.extend(_spoken(name, self._values[name]) for name in self.shown if name in self._values)
        fields.append(self._time(now))
        return [field for field in fields if field]

    def _time(self, now: float) -> str:
        if self._step >= self.total:
            return f"in {clock_time(now - self._began)}"
        if self._first is None or self._step <= self._first[0] or now <= self._first[1]:
            return ""
        speed = (self._step - self._first[0]) / (now - self._first[1])
        return f"{clock_time((self.total - self._step) / speed)} left"

    def _bar(self, width: int) -> str:
        full, empty = ("━", "╌") if _speaks_unicode(self._stream) else ("#", ".")
        done = round(width * min(max(self._step / self.total if self.total else 1.0, 0.0), 1.0))
        return full * done + empty * (width - done)

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # a closed terminal must not end a run


def clock_time(seconds: float) -> str:
    """Formats seconds as `m:ss`, or `h:mm:ss` from one hour."""
    whole = max(round(seconds), 0)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _spoken(name: str, value: float) -> str:
    if name == "tokens_per_second":
        return f"{value:,.0f} tokens/s"
    return f"{name.replace('_', ' ')} {value:.4g}"


def _is_terminal(stream: Any) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, OSError, ValueError):
        return False


def _is_notebook(stream: Any) -> bool:
    return type(stream).__module__.partition(".")[0] in ("ipykernel", "google")


def _columns(stream: Any) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _speaks_unicode(stream: Any) -> bool:
    try:
        "━╌".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
