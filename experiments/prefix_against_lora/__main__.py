"""`python -m experiments.prefix_against_lora [--only costs,latency,budget]`: prefix tuning against LoRA, measured.

Operations and activation memory are counted from the programs, decoding is timed in ratios, and loss and score are
measured against prefix length in a context that the input nearly fills. Writes `results/*.json`, then the tables of
`README.md` and the plots from these alone.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from experiments.prefix_against_lora import budget, costs, latency, report
from prefix_jax.cli import enable_compile_cache, user_errors
from prefix_jax.disk import write_text
from prefix_jax.training import run_directory

PARTS = ("costs", "latency", "budget")


def keep(name: str, found: dict[str, Any]) -> None:
    """Writes a result with what it came from."""
    about = {
        "commit": run_directory.commit(),
        "versions": run_directory.versions(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }
    write_text(report.RESULTS / f"{name}.json", json.dumps({**about, **found}, indent=1) + "\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, or an empty string for the tables alone")
    parser.add_argument("--counted", default="gpt2-medium,smollm2-135m", help="models whose costs are counted")
    parser.add_argument("--timed", default="smollm2-135m", help="the model that decodes")
    parser.add_argument("--trained", default="flan-t5-small", help="the model that is tuned in a full context")
    parser.add_argument("--steps", type=int, default=60, help="of training, in the full context")
    parser.add_argument("--runs", type=Path, default=Path("runs/prefix_against_lora"), help="where runs are kept")
    options = parser.parse_args()
    enable_compile_cache()
    parts = options.only.split(",")
    with user_errors():
        for model in options.counted.split(",") if "costs" in parts else ():
            keep(f"costs_{model}", costs.count(model, say))
        if "latency" in parts:
            keep("latency", latency.measure(options.timed))
        if "budget" in parts:
            keep("budget", budget.measure(options.trained, options.steps, options.runs / "budget"))
        report.write()


if __name__ == "__main__":
    main()
