"""`python -m prefix_jax.reporting --workdir DIR` rewrites `DIR/report.html`."""

from pathlib import Path

from absl import flags

from prefix_jax import cli
from prefix_jax.reporting.report import write_report
from prefix_jax.workdir import CONFIG


def define_flags() -> None:
    cli.define_path("workdir", None, f"A run directory, with {CONFIG}.")


def main(options: flags.FlagValues) -> None:
    """Writes the page and prints its path."""
    cli.required(workdir=options.workdir)
    print(write_report(Path(options.workdir)))


if __name__ == "__main__":
    cli.run(main, define_flags)
