"""`python -m prefix_jax.reporting --workdir DIR` rewrites `DIR/report.html`."""

import argparse
from pathlib import Path

from prefix_jax import cli
from prefix_jax.reporting.report import write_report
from prefix_jax.workdir import CONFIG, REPORT


def main(argv: list[str] | None = None) -> None:
    """Writes the page and prints its path; bad input ends the program with code 2."""
    parser = argparse.ArgumentParser(prog="python -m prefix_jax.reporting", description=f"Write {REPORT} of a run.")
    parser.add_argument(
        "--workdir",
        required=True,
        type=lambda text: Path(cli.path(text)),
        metavar="DIR",
        help=f"a run directory, with {CONFIG}",
    )
    options = parser.parse_args(argv)
    with cli.user_errors():
        print(write_report(options.workdir))


if __name__ == "__main__":
    main()
