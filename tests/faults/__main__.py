"""Reads damaged files with every reader: `python -m tests.faults --count 20000 --seed 0 [--reader NAME] [--only N]`."""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--count", type=int, default=20_000, help="mutants of all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", default="", help="part of the name of a reader; empty: all")
    parser.add_argument("--only", type=int, help="the number of one mutant of --reader, whose error is shown whole")
    options = parser.parse_args()
    from tests.faults import instrument
    from tests.faults.readers import READERS
    from tests.faults.samples import Samples

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFIX_JAX_CACHE"] = f"{folder}/cache"
        samples = Samples(Path(folder))
        if options.only is not None:
            reader = next(one for one in READERS if options.reader in one.name)
            did, error = instrument.Bench(reader, samples).mutant(options.seed, options.only)
            print(did)
            traceback.print_exception(error) if error is not None else print("read")
            return 0
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            found, seconds = instrument.run(samples, options.seed, options.count, options.reader)
        print(instrument.summary(found, seconds))
        return int(any(one.failed for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
