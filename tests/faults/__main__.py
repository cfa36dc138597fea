"""Reads damaged files with every reader: `python -m tests.faults --count 20000 --seed 0 [--reader NAME] [--only N]`.

Mutants are read in a second process, so that one which ends it (a crash in a library) is a failure like another.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Mutants that are reported together.
_PART = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--count", type=int, default=20_000, help="mutants of all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", default="", help="part of the name of a reader; empty: all")
    parser.add_argument("--only", type=int, help="the number of one mutant of --reader, whose error is shown whole")
    parser.add_argument("--in", dest="folder", help=argparse.SUPPRESS)  # where a second process works
    options = parser.parse_args()
    os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    if options.folder:
        return _work(Path(options.folder), options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFIX_JAX_CACHE"] = f"{folder}/cache"
        return _one(Path(folder), options) if options.only is not None else _all(Path(folder), options)


def _one(folder: Path, options: argparse.Namespace) -> int:
    from tests.faults import instrument
    from tests.faults.samples import Samples

    names = [reader.name for reader in instrument.READERS]
    name = next(name for name in names if options.reader in name)
    did, error = instrument.Bench(instrument.reader_of(name), Samples(folder)).mutant(options.seed, options.only)
    print(f"{name}: {did}")
    traceback.print_exception(error) if error is not None else print("read")
    return 0


def _all(folder: Path, options: argparse.Namespace) -> int:
    from tests.faults.instrument import Outcome, counts, summary

    wanted = {name: count for name, count in counts(options.count).items() if options.reader in name}
    parts = [(name, a, min(a + _PART, n)) for name, n in wanted.items() for a in range(0, n, _PART)]
    found, begun = {name: Outcome() for name in wanted}, time.monotonic()
    while parts:
        (folder / "parts.json").write_text(json.dumps(parts))
        (folder / "outcomes.jsonl").write_text("")
        words = [sys.executable, "-X", "faulthandler", "-m", "tests.faults", f"--in={folder}", f"--seed={options.seed}"]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        lines = (folder / "outcomes.jsonl").read_text().split("\n")[:-1]
        for line in lines:
            name, outcome = json.loads(line)
            found[name].add(Outcome(**outcome))
        parts = parts[len(lines) :]
        if parts:
            place = (folder / "current").read_text()
            if not place or done.returncode > 0:  # the instrument failed, not a reader
                print(done.stderr)
                return 2
            (name, a, b), number = parts.pop(0), int(place)
            trace = [line.strip() for line in done.stderr.split("\n") if "File " in line and "prefix_jax/" in line]
            at = trace[0] if trace else "an unknown place"
            failure = f"the process ended ({done.returncode}) at {at}"
            found[name].add(Outcome(failures={failure: [f"--only {number}"]}))
            parts = [(name, a, number), (name, number + 1, b), *parts]
    print(summary(found, time.monotonic() - begun))
    return int(any(one.failed for one in found.values()))


def _work(folder: Path, seed: int) -> int:
    """Reads the parts in a file, and writes what came of each."""
    from tests.faults import instrument
    from tests.faults.samples import Samples

    samples, bench = Samples(folder), None
    current = os.open(folder / "current", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def begin(number: int) -> None:
        os.pwrite(current, f"{number:<12}".encode(), 0)

    for name, a, b in json.loads((folder / "parts.json").read_text()):
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            if bench is None or bench.reader.name != name:
                bench = instrument.Bench(instrument.reader_of(name), samples)
            outcome = instrument.drive(bench, seed, range(a, b), begin)
        with open(folder / "outcomes.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps([name, dataclasses.asdict(outcome)]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
