"""The command line of a study.

    python -m experiments.NAME --scale=cpu --workdir runs/NAME [options of prefix_jax.sweep]

runs or resumes the sweep of the study's recipe, stores a line of `results.jsonl` for each finished run, and rewrites
the table and the figures of the README. Without `--workdir` it only rewrites these.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import results
from experiments.readme import write_readme
from experiments.study import Figure, Study
from prefix_jax.workdir import is_sweep

__all__ = ["Figure", "Study", "main", "run_sweep"]

# Options of the sweep that do not affect runs.
_HARMLESS = ("--job", "--only", "--members", "--plan", "--coordinator", "--process", "--wait")


def main(study: Study) -> None:
    """Runs the command line of a study's folder."""
    parser = argparse.ArgumentParser(description=f"The study {study.folder.name}; other options are the sweep's.")
    parser.add_argument("--scale", choices=sorted(study.scored), default="cpu")
    parser.add_argument("--workdir", type=Path, help="the sweep's directory; without it only the README is written")
    arguments, rest = parser.parse_known_args()
    code, workdir = 0, arguments.workdir
    if workdir:
        code = run_sweep(study, arguments.scale, workdir, rest)
        ended = results.of_sweep(workdir, arguments.scale) if is_sweep(workdir) else []
        if changes := [word for word in rest if not word.startswith(_HARMLESS) and word.startswith("--")]:
            results.keep(workdir / results.FILE_NAME, arguments.scale, ended)
            print(
                f"with {changes[0]} the study is a different one: its results are in {workdir}/{results.FILE_NAME}",
                file=sys.stderr,
            )
            raise SystemExit(code)
        if any(row.result for row in ended):
            results.keep(study.results, arguments.scale, ended)
    write_readme(study)
    raise SystemExit(code)


def run_sweep(study: Study, scale: str, workdir: Path, rest: Sequence[str]) -> int:
    """Runs the study's sweep and returns its exit code; SIGTERM and Ctrl-C stop it as usual."""
    recipe = study.recipe.resolve()
    shown = recipe.relative_to(Path.cwd()) if recipe.is_relative_to(Path.cwd()) else recipe
    words = ["--config", f"{shown}:{scale}", "--workdir", str(workdir), *study.scored[scale], *rest]
    process = subprocess.Popen([sys.executable, "-m", "prefix_jax.sweep", *words])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal also sends it to the sweep
    return process.wait()
