"""Drives readers with damaged files: only a sentence or success, in bounded time and memory."""

import contextlib
import json
import random
import re
import resource
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from prefix_jax.errors import UserError
from tests.faults.mutations import mutate
from tests.faults.readers import READERS, Reader
from tests.faults.samples import Samples

SECONDS = 20
# What reading may ask for beyond what the process has; the samples are below a megabyte.
BYTES = 3 << 30


class TooSlow(BaseException):
    """A reader took more than `SECONDS`."""


@dataclass
class Outcome:
    """What came of a reader's mutants: how many were read, how many refused, and the failures by their place."""

    read: int = 0
    refused: int = 0
    failures: dict[str, list[str]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(map(len, self.failures.values()))

    def add(self, other: "Outcome") -> None:
        self.read += other.read
        self.refused += other.refused
        for place, cases in other.failures.items():
            self.failures.setdefault(place, []).extend(cases)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Bounds time and memory in a block."""

    def late(_: int, __: FrameType | None) -> None:
        raise TooSlow(f"more than {SECONDS} seconds")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def counts(total: int) -> dict[str, int]:
    """Returns how many of so many mutants each reader has."""
    whole = sum(reader.share for reader in READERS)
    return {reader.name: max(1, round(total * reader.share / whole)) for reader in READERS}


class Bench:
    """A reader with its sound files, and a folder of which one file at a time is damaged."""

    def __init__(self, reader: Reader, samples: Samples) -> None:
        self.reader, self.samples = reader, samples
        place = samples.root / "bench" / re.sub(r"\W+", "-", reader.name)
        shutil.rmtree(place, ignore_errors=True)
        self.sound, self.folder = place / "sound", place / "work" / "files"
        self.sound.mkdir(parents=True)
        reader.make(self.sound, samples)
        shutil.copytree(self.sound, self.folder)
        times = {file.name: file.stat().st_mtime_ns for file in self.folder.iterdir()}
        (self.folder.parent / "sound.json").write_text(json.dumps(times))
        found = sorted(file for file in self.sound.glob(reader.files) if file.is_file())
        self.names = [file.relative_to(self.sound).as_posix() for file in found]
        assert self.names, reader.name
        with bounded():
            reader.read(self.folder, samples)  # sound files are read, with all that is loaded lazily
        self._restore()

    def _restore(self) -> None:
        for name in [file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*")]:
            if not (self.sound / name).exists():
                _remove(self.folder / name)
        for file in self.sound.rglob("*"):
            if file.is_file():
                _put(file, self.folder / file.relative_to(self.sound))

    def mutant(self, seed: int, number: int) -> tuple[str, BaseException | None]:
        """Reads a mutant; returns what was damaged, and what was raised."""
        rng = random.Random(f"{seed}/{self.reader.name}/{number}")
        did = mutate(rng, self.folder, self.names)
        try:
            with bounded():
                self.reader.read(self.folder, self.samples)
            return did, None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            return did, error
        finally:
            shutil.rmtree(self.folder.parent / "out", ignore_errors=True)
            self._restore()


def _put(sound: Path, file: Path) -> None:
    """Makes a file what the sound one is, as another file: what is mapped of the damaged one stays as it is."""
    about = sound.stat()
    if file.is_file():
        here = file.stat()
        if (here.st_mtime_ns, here.st_size) == (about.st_mtime_ns, about.st_size):
            return
    _remove(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(sound, file)


def _remove(file: Path) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def place_of(error: BaseException) -> str:
    """Returns the kind of an error, and the last line of this package in its trace."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/prefix_jax/" in frame.filename and "/tests/" not in frame.filename] or frames
    last = own[-1] if own else None
    where = f"{last.filename.rpartition('/prefix_jax/')[2]}:{last.lineno}" if last else "?"
    return f"{type(error).__name__} at {where}"


def _case(number: int, did: str, error: BaseException) -> str:
    return f"--only {number}, {did}: {str(error)[:120]!r}"


def drive(bench: Bench, seed: int, numbers: range, begin: Callable[[int], None] = lambda number: None) -> Outcome:
    """Reads mutants with these numbers; `begin` is called before each."""
    found = Outcome()
    for number in numbers:
        begin(number)
        did, error = bench.mutant(seed, number)
        if error is None:
            found.read += 1
        elif isinstance(error, UserError):
            found.refused += 1
            if not str(error).strip() or "\n" in str(error) or len(str(error)) > 3000:
                found.failures.setdefault("not one short line", []).append(_case(number, did, error))
        else:
            found.failures.setdefault(place_of(error), []).append(_case(number, did, error))
    return found


def summary(found: dict[str, Outcome], seconds: float) -> str:
    """Returns a table of what came of the mutants, and the failures."""
    lines = [f"{'reader':<28}{'mutants':>9}{'read':>8}{'refused':>9}{'failed':>8}"]
    total: Counter[str] = Counter()
    for name, one in found.items():
        row = {"mutants": one.read + one.refused + one.failed, "read": one.read, "refused": one.refused}
        row["failed"] = one.failed
        total.update(row)
        lines.append(f"{name:<28}{row['mutants']:>9}{row['read']:>8}{row['refused']:>9}{row['failed']:>8}")
    lines.append(f"{'all':<28}{total['mutants']:>9}{total['read']:>8}{total['refused']:>9}{total['failed']:>8}")
    lines.append(f"{seconds:.0f} s")
    for name, one in found.items():
        for place, cases in sorted(one.failures.items(), key=lambda item: -len(item[1])):
            lines.append(f"{name}: {len(cases)} x {place}; {cases[0]}")
    return "\n".join(lines)


def run(samples: Samples, seed: int, total: int) -> tuple[dict[str, Outcome], float]:
    """Reads so many mutants of all readers in this process."""
    begun = time.monotonic()
    found = {name: drive(Bench(reader_of(name), samples), seed, range(n)) for name, n in counts(total).items()}
    return found, time.monotonic() - begun


def reader_of(name: str) -> Reader:
    return next(reader for reader in READERS if reader.name == name)
