"""How the cost of a step grows with the prefix, the sequence and the batch; seconds beside counted FLOPs."""

import time
from typing import Any

import jax
import numpy as np

from benchmarks.jax_side import Ours
from prefix_jax.data.batching import Batch
from prefix_jax.parallel.program import product_flops

PREFIXES = (1, 10, 50, 100, 200, 500)
SEQUENCES = (128, 256, 512, 1024, 2048, 4096)
ROWS = (1, 2, 4, 8, 16, 32, 64)
TOKENS = 4096  # a step, where the sequence grows
REPEATS = 2


def synthetic(rows: int, length: int, vocabulary: int, targets: int = 0) -> Batch:
    """Returns whole rows of one segment each, whose last `targets` tokens (0: the second half) are predicted."""
    targets = targets or length - length // 2 - 1
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, vocabulary, (rows, length), dtype=np.int32)
    columns = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy()
    ends = columns[:, length - targets - 1 : -1]
    ones = np.ones_like(tokens)
    return Batch(
        tokens, columns, ones, ends, tokens[:, length - targets :], np.ones(ends.shape, np.float32), alone=True
    )


def grow(source: str, dtype: str, what: str) -> list[dict[str, Any]]:
    """Returns a row for each point: x, seconds of a step (the least of a few), FLOPs of its products."""
    if what == "prefix":
        points = [(length, Ours(source, dtype, length=length), (2, 512)) for length in PREFIXES]
    else:
        ours = Ours(source, dtype)
        shapes = [(n, (TOKENS // n, n)) for n in SEQUENCES] if what == "sequence" else [(n, (n, 64)) for n in ROWS]
        points = [(x, ours, shape) for x, shape in shapes]
    rows = [{"x": x, "shape": shape, **_cost(ours, shape)} for x, ours, shape in points]
    if what == "prefix":
        rows.insert(0, {"x": 0, "shape": (2, 512), **_forward(points[0][1], (2, 512))})
    return rows


def _cost(ours: Ours, shape: tuple[int, int]) -> dict[str, float]:
    batch = synthetic(*shape, ours.session.model_config.vocab_size)
    program = ours.compiled_step(batch)
    ours.step(batch)
    found = {"seconds": _least(lambda: ours.step(batch)), "flops": product_flops(program)}
    return {**found, **{f"forward_{name}": value for name, value in _forward(ours, shape, ours.prefix).items()}}


def _forward(ours: Ours, shape: tuple[int, int], prefix: Any = None) -> dict[str, float]:
    """The loss alone, with a prefix or without."""
    from prefix_jax.training.loss import loss_sums

    batch = synthetic(*shape, ours.session.model_config.vocab_size)
    run = jax.jit(lambda base, prefix, batch: loss_sums(ours.session.model, base, prefix, batch))
    base = ours.session.base
    text = run.lower(base, prefix, batch).compile().as_text()
    jax.block_until_ready(run(base, prefix, batch))
    seconds = _least(lambda: jax.block_until_ready(run(base, prefix, batch)))
    return {"seconds": seconds, "flops": product_flops(text)}


def _least(run: Any) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
