"""`python -m benchmarks.run [--only train,...] [--models smollm2-135m,...] [--quick]`: measures and writes results.

Every measurement is a process of its own; the two sides take turns, so that a slow minute of the machine meets both.
Results go to `benchmarks/results/CASE_MODEL.json`; `benchmarks.report` makes the table and the plots of them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from prefix_jax.disk import write_text

RESULTS = Path(__file__).parent / "results"
MODELS = ("smollm2-135m", "flan-t5-small")
ENCODER_DECODERS = ("flan-t5-small",)
DTYPES = ("float32", "bfloat16")
CASES = ("train", "generate", "start", "roofline", "members", "growth")
GROWING = ("prefix", "sequence", "batch")


def measure(case: str, **options: Any) -> dict[str, Any]:
    """Runs one measurement and returns what it printed, with the time from the process' start to its first step."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker", json.dumps({"case": case, **options})],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{case} {options} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.rstrip().split("\n")[-1])
    if "first_step_at" in found:
        found["seconds_to_first_step"] = round(found.pop("first_step_at") - began, 2)
    shown = {k: v for k, v in found.items() if isinstance(v, float | int)}
    print(case, options, json.dumps(shown), file=sys.stderr, flush=True)
    return found


def sides(rounds: int) -> list[tuple[str, str]]:
    """Returns (side, type) in the order measured."""
    return [(side, dtype) for _ in range(rounds) for dtype in DTYPES for side in ("peft", "ours")]


def compare(case: str, key: str, rounds: int, **options: Any) -> dict[str, Any]:
    """Measures both sides in both types; returns medians, every round, and the ratios of this run."""
    rows: dict[str, list[dict]] = {}
    for side, dtype in sides(rounds):
        rows.setdefault(f"{side} {dtype}", []).append(measure(case, side=side, dtype=dtype, **options))
    median = {name: statistics.median(r[key] for r in found) for name, found in rows.items()}
    peak = {name: min(r["peak_bytes"] for r in found) for name, found in rows.items()}
    ours, theirs = (max(median[f"{side} {dtype}"] for dtype in DTYPES) for side in ("ours", "peft"))
    ratios = {
        "over PEFT float32": ours / median["peft float32"],
        "over PEFT's best": ours / theirs,
        **{f"over PEFT, both {dtype}": median[f"ours {dtype}"] / median[f"peft {dtype}"] for dtype in DTYPES},
    }
    return {"median": median, "peak_bytes": peak, "ratios": ratios, "rounds": rows}


def write(name: str, results: dict[str, Any]) -> None:
    packages = ("jax", "jaxlib", "torch", "transformers", "peft")
    about = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: metadata.version(package) for package in packages},
        "date": time.strftime("%Y-%m-%d"),
    }
    write_text(RESULTS / f"{name}.json", json.dumps({**about, **results}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--quick", action="store_true", help="one round of a few steps")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "prefix_jax_bench")
    arguments = parser.parse_args()
    rounds, steps = (1, 2) if arguments.quick else (2, 6)
    for source in arguments.models.split(","):
        common = dict(source=source, folder=str(arguments.folder / source))
        measure("prepare", **common)
        proof = measure("agree", **common)
        for case in arguments.only.split(","):
            if case == "train":
                found = compare("train", "tokens_per_second", rounds, steps=steps, **common)
            elif case == "generate":
                found = {
                    name: compare("generate", "tokens_per_second", 1, beams=beams, **common)
                    for name, beams in (("greedy", 1), ("beam 5", 5))
                }
            elif case == "start":
                found = start(common)
            elif case == "roofline":
                found = {dtype: measure("roofline", dtype=dtype, **common) for dtype in DTYPES}
            elif case == "members":
                found = {
                    what: measure("members", dtype="bfloat16", growing=what == "growth", **common)
                    for what in ("compare", "growth")
                }
            elif case == "growth":
                curves = {}
                for what in () if source in ENCODER_DECODERS else GROWING:  # the rows are a decoder's
                    curves[what] = measure("growth", dtype="bfloat16", what=what, **common)
                    # One by one: together they take a quarter of an hour.
                    write(f"{case}_{source}", {"agreement": proof, **curves})
                continue
            else:
                raise SystemExit(f"there is no case {case}")
            write(f"{case}_{source}", {"agreement": proof, **found})


def start(common: dict[str, Any]) -> dict[str, Any]:
    """Returns the seconds from a process' start to its first step: the command line with an empty and a warm cache."""
    with tempfile.TemporaryDirectory() as cache:
        cold, warm, again = (first_step(common["source"], Path(cache), Path(cache, str(turn))) for turn in range(3))
    theirs = measure("train", side="peft", dtype="bfloat16", steps=1, **common)["seconds_to_first_step"]
    return {"cold": cold, "warm": min(warm, again), "peft": theirs}


def first_step(source: str, cache: Path, workdir: Path) -> float:
    """Trains one step with the recipe's command line and returns the seconds until its metrics were written."""
    recipe = f"configs/e2e_{source.replace('-', '_')}.py"
    options = ("steps=1", "log_every=1", "evaluate_every=0", "batch=16", "tensorboard=False")
    words = [sys.executable, "-m", "prefix_jax.train", "--config", recipe, "--workdir", str(workdir)]
    keep_all = {
        "JAX_COMPILATION_CACHE_DIR": str(cache / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",  # as the programs have it in the user's cache
    }
    began = time.time()
    done = subprocess.run(
        [*words, *(f"--config.training.{option}" for option in options)], check=False, capture_output=True, text=True,
        env={**os.environ, **keep_all},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {done.stderr[-3000:]}")
    return round((workdir / "metrics.jsonl").stat().st_mtime - began, 2)


if __name__ == "__main__":
    main()
