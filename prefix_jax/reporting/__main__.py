"""`python -m prefix_jax.reporting --workdir DIR [--figures FOLDER]` rewrites `DIR/report.html` of a run or a sweep.

With `--figures` it also writes each figure for other programs: as SVG with a caption, its numbers as CSV, and, with
matplotlib (`pip install 'prefix_jax[figures]'`), as PDF for a paper.
"""

from pathlib import Path

from absl import flags

from prefix_jax import cli
from prefix_jax.reporting.export import write_figures
from prefix_jax.reporting.report import figures_of, title, write_report
from prefix_jax.reporting.run import read_run
from prefix_jax.reporting.sweep import read_sweep
from prefix_jax.reporting.sweep_page import sweep_figures, write_sweep
from prefix_jax.reporting.sweep_page import title as sweep_title
from prefix_jax.workdir import CONFIG, REPORT, is_sweep


def define_flags() -> None:
    cli.define_path("workdir", None, f"A run directory, with {CONFIG}, or a sweep's.")
    cli.define_path("figures", None, "A folder for the figures as SVG, CSV and PDF: created if it is absent.")


def main(options: flags.FlagValues) -> None:
    """Writes the page and the figures, and prints their paths."""
    cli.required(workdir=options.workdir)
    workdir = Path(options.workdir)
    if is_sweep(workdir):
        found = read_sweep(workdir)
        write_sweep(workdir)
        print(workdir / REPORT)
        figures, about = sweep_figures(found), sweep_title(found)
    else:
        print(write_report(workdir))
        run = read_run(workdir)
        figures, about = figures_of(run), title(run)
    if options.figures:
        for path in write_figures(Path(options.figures), figures, about):
            print(path)


if __name__ == "__main__":
    cli.run(main, define_flags)
