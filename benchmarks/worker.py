"""One measurement in a process of its own: `python -m benchmarks.worker '{"case": "train", ...}'` prints JSON."""

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.files import test_sources, training_rows


def train(side: str, source: str, folder: str, dtype: str, steps: int = 6, batch: int = 16, **options: Any) -> dict:
    """Trains on the same records of a step each; the first step is not counted."""
    rows = training_rows(Path(folder), batch * (steps + 1))
    if side == "peft":
        from benchmarks.peft_side import opened

        runner = opened(Path(folder), dtype, **options)
        parts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        counts = [sum(len(r.target) for r in part) for part in parts]
    else:
        from benchmarks.jax_side import Ours, target_tokens

        runner = Ours(source, dtype, **options)
        packed = runner.batches(rows, batch)
        parts = [packed.batch_at(i) for i in range(steps + 1)]
        counts = [target_tokens(part) for part in parts]
    seconds, losses = [], []
    for part in parts:
        began = time.perf_counter()
        losses.append(runner.step(part))
        seconds.append(time.perf_counter() - began)
        if not seconds[1:]:
            first = time.time()
    rate = sum(counts[1:]) / sum(seconds[1:])
    return {
        "tokens_per_second": rate,
        "seconds": seconds,
        "losses": losses,
        "target_tokens": counts,
        "first_step_at": first,
    }


def generate(
    side: str, source: str, folder: str, dtype: str, beams: int, new_tokens: int = 40, batch: int = 16
) -> dict:
    """Writes exactly `new_tokens` tokens for a batch of test inputs, three times; the best of the last two counts."""
    sources = test_sources(Path(folder), batch)
    if side == "peft":
        from benchmarks.peft_side import opened

        runner = opened(Path(folder), dtype)
    else:
        from benchmarks.jax_side import Ours

        runner = Ours(source, dtype)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        out = runner.generate(sources, beams, new_tokens)
        seconds.append(time.perf_counter() - began)
    rate = batch * new_tokens / min(seconds[1:])
    return {"tokens_per_second": rate, "seconds": seconds, "lengths": [len(row) for row in out]}


def agree(source: str, folder: str) -> dict:
    """See `benchmarks.agreement`."""
    from benchmarks.agreement import check

    return check(source, Path(folder))


def roof(source: str, folder: str, dtype: str, steps: int = 6, batch: int = 16) -> dict:
    """The step on real rows beside its own matrix products, each timed alone in this process."""
    from benchmarks.jax_side import Ours, target_tokens
    from benchmarks.roofline import roofline

    runner = Ours(source, dtype)
    packed = runner.batches(training_rows(Path(folder), batch * (steps + 1)), batch)
    parts = [packed.batch_at(i) for i in range(steps + 1)]
    runner.step(parts[0])
    bound = roofline(runner.compiled_step(parts[0]))
    seconds = []
    for part in parts[1:]:
        began = time.perf_counter()
        runner.step(part)
        seconds.append(time.perf_counter() - began)
    useful = sum(target_tokens(part) for part in parts[1:]) / steps
    step = statistics.median(seconds)
    return {
        "share": bound["seconds"] / step,
        "step_seconds": step,
        "tokens_per_second": useful / step,
        "roofline_tokens_per_second": useful / bound["seconds"],
        **packed.statistics(),
        **bound,
    }


def grown(source: str, folder: str, dtype: str, what: str) -> dict:
    """See `benchmarks.growth`."""
    from benchmarks.growth import grow

    return {"rows": grow(source, dtype, what)}


def shared(source: str, folder: str, dtype: str, growing: bool = False) -> dict:
    """See `benchmarks.members`."""
    from benchmarks import members

    rows = training_rows(Path(folder), 2 * 16 * 5)
    return {"rows": members.grow(source, dtype, rows)} if growing else members.compare(source, dtype, rows)


def prepared(source: str, folder: str) -> dict:
    """See `benchmarks.prepare`."""
    from benchmarks.prepare import prepare

    prepare(source, Path(folder))
    return {}


CASES = {
    "prepare": prepared, "agree": agree, "train": train, "generate": generate, "roofline": roof, "growth": grown,
    "members": shared,
}  # fmt: skip


def main() -> None:
    wanted = json.loads(sys.argv[1])
    if wanted.get("side") == "peft":
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
    else:
        from prefix_jax import cli

        cli.enable_compile_cache()
    found = CASES[wanted.pop("case")](**wanted)
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
