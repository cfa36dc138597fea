"""The progress bar, on a real pseudo-terminal and in a log file."""

import contextlib
import fcntl
import io
import os
import re
import struct
import termios
import threading

import pytest

from prefix_jax.training.progress import Progress, clock_time


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(stream, steps: int = 100, seconds: float = 1.0, start: int = 0, **options) -> None:
    clock = Clock()
    with Progress(steps, start, "train", stream=stream, clock=clock, **options) as progress:
        for step in range(start + 1, steps + 1):
            clock.now += seconds
            progress.update(step, {"loss": 2.0 - step / 100, "seconds": clock.now, "tokens_per_second": 3120.4})


def on_terminal(columns: int, encoding: str = "utf-8", body=run) -> str:
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    attributes = termios.tcgetattr(follower)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(follower, termios.TCSANOW, attributes)
    pieces: list[bytes] = []

    def read() -> None:
        # Linux reports the end of a pseudo-terminal as an error.
        with contextlib.suppress(OSError):
            while piece := os.read(leader, 4096):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(follower, "w", encoding=encoding, newline="") as stream:
        body(stream)
    reader.join()
    os.close(leader)
    return b"".join(pieces).decode(encoding)


def test_a_log_file_gets_about_ten_plain_lines():
    stream = io.StringIO()
    run(stream)
    lines = stream.getvalue().splitlines()
    assert 10 <= len(lines) <= 12
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", stream.getvalue())
    assert lines[0].startswith("train  1/100   1%  loss 1.99  3,120 tokens/s")
    assert "train  50/100  50%  loss 1.5  3,120 tokens/s  0:50 left" in lines
    assert lines[-1] == "train  100/100 100%  loss 1  3,120 tokens/s  in 1:40"


def test_a_slow_run_is_not_silent_for_long():
    stream = io.StringIO()
    run(stream, seconds=15.0)
    assert len(stream.getvalue().splitlines()) >= 50


def test_a_stream_of_events_gets_numbers_rather_than_text():
    class Events(io.StringIO):
        def progress(self, label, step, total, values):
            found.append((label, step, total, values))

    found, stream = [], Events()
    run(stream)
    assert stream.getvalue() == "" and 10 <= len(found) <= 12
    assert found[-1] == ("train", 100, 100, {"loss": 1.0, "tokens_per_second": 3120.4})


def test_a_resumed_run_counts_from_where_it_stood():
    stream = io.StringIO()
    run(stream, start=60)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("train  61/100  61%")
    assert any("80/100  80%" in line and "0:20 left" in line for line in lines)
    assert lines[-1].endswith("in 0:40")


def test_compilation_does_not_count_as_speed():
    stream, clock = io.StringIO(), Clock()
    with Progress(10, 0, "train", stream=stream, clock=clock) as progress:
        clock.now += 500.0
        progress.update(1)
        clock.now += 1.0
        progress.update(2)
    assert "left" not in stream.getvalue().splitlines()[0]
    assert "0:08 left" in stream.getvalue().splitlines()[1]


def test_an_interrupted_run_leaves_its_last_step():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(1000, 0, "train", stream=stream, clock=Clock()) as progress:
        for step in range(1, 8):
            progress.update(step, {"loss": 1.0})
        raise KeyboardInterrupt
    assert stream.getvalue().splitlines()[-1].startswith("train  7/1,000")


def test_nothing_is_written_before_the_first_step():
    stream = io.StringIO()
    with Progress(10, 0, "train", stream=stream):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
def test_a_terminal_line_is_redrawn_and_fits(columns):
    written = on_terminal(columns)
    assert written.count("\n") == 1 and written.endswith("\n")
    drawn = [piece.replace("\x1b[K", "") for piece in written.rstrip("\n").split("\r")[1:]]
    assert len(drawn) == 101 and drawn[0].startswith("train")
    assert all(len(piece) < columns for piece in drawn)
    if columns >= 80:
        assert "━" in drawn[50] and "╌" in drawn[50] and "loss" in drawn[50] and "left" in drawn[50]
        assert "╌" not in drawn[-1] and drawn[-1].endswith("in 1:40")


def test_a_terminal_is_redrawn_at_most_ten_times_a_second():
    written = on_terminal(80, body=lambda stream: run(stream, steps=1000, seconds=0.001))
    assert 8 <= written.count("\r") <= 14


def test_a_terminal_without_unicode_gets_ascii():
    written = on_terminal(80, encoding="ascii")
    assert "####" in written and "...." in written


def test_a_closed_stream_does_not_end_the_run():
    stream = io.StringIO()
    with Progress(10, 0, "train", stream=stream) as progress:
        stream.close()
        progress.update(1, {"loss": 1.0})


def test_it_writes_to_stderr(capsys):
    with Progress(2, 0, "train") as progress:
        progress.update(1)
        progress.update(2)
    out, err = capsys.readouterr()
    assert out == "" and "train  2/2 100%" in err


def test_the_values_shown_can_be_chosen():
    stream = io.StringIO()
    with Progress(10, 0, "score", stream=stream, shown=("records", "loss")) as progress:
        progress.update(1, {"loss": 1.0, "gradient_norm": 2.0, "records": 16})
    assert stream.getvalue() == "score  1/10  10%  records 16  loss 1\n"


def test_an_interrupt_before_the_first_step_ends_the_line():
    def body(stream):
        with contextlib.suppress(KeyboardInterrupt), Progress(10, 0, "train", stream=stream):
            raise KeyboardInterrupt

    assert on_terminal(80, body=body).endswith("\x1b[K\n")


def test_times():
    assert [clock_time(seconds) for seconds in (0, 59.6, 61, 3600, 36061)] == [
        "0:00",
        "1:00",
        "1:01",
        "1:00:00",
        "10:01:01",
    ]


def test_a_notebook_gets_a_bar_without_escape_sequences():
    """ipykernel's stream is no terminal, and redraws a line after a carriage return."""
    from ipykernel.iostream import OutStream

    class Stream(OutStream):
        def __init__(self) -> None:
            self.written: list[str] = []

        def write(self, text: str) -> int:  # type: ignore[override]
            self.written.append(text)
            return len(text)

        def flush(self) -> None: ...
        def isatty(self) -> bool:
            return False

        def __del__(self) -> None: ...

    Stream.__module__ = OutStream.__module__
    stream, now = Stream(), iter(range(100))
    with Progress(4, label="train", stream=stream, clock=lambda: next(now)) as bar:
        for step in range(1, 5):
            bar.update(step, {"loss": 10.0**-step})
    drawn = "".join(stream.written)
    assert "\x1b" not in drawn and drawn.count("\r") == 5 and drawn.endswith("\n") and "4/4 100%" in drawn
    widths = [len(line) for line in drawn.rstrip("\n").split("\r")[1:]]
    assert widths == sorted(widths), "a shorter line leaves no rest of the one before"
