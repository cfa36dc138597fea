"""`prefix-jax runs [DIR]` lists the runs in a folder; `prefix-jax runs A B` compares two option by option."""

import json
from pathlib import Path

from absl import flags

from prefix_jax import cli
from prefix_jax.errors import UserError


def define_flags() -> None:
    flags.DEFINE_bool("json", False, "Print JSON.")


def main(options: flags.FlagValues, folders: list[str]) -> None:
    """Prints the table of runs below one folder, or the options in which two runs differ."""
    from prefix_jax.reporting import runs
    from prefix_jax.reporting.tables import text_table

    if len(folders) > 2:
        raise UserError(f"{len(folders)} folders are given; give one to list its runs, or two runs to compare")
    if len(folders) == 2:
        one, other = (Path(cli.path(folder)) for folder in folders)
        rows = runs.differences(one, other)
        columns = ["option", one.name or str(one), other.name or str(other)]
        title = "" if rows else "the two runs have the same options"
    else:
        found = runs.listed(Path(cli.path(folders[0] if folders else "runs")))
        rows, columns, title = [run.row() for run in found], list(runs.COLUMNS), ""
    if options.json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
    else:
        print(title or text_table(rows, columns))


if __name__ == "__main__":
    cli.run_with_arguments(main, define_flags)
