"""`python -m prefix_jax.sweep --config configs/NAME.py --workdir DIR [--config.SECTION.OPTION=VALUE ...]`

Runs the rows of the recipe's `sweep()`: rows that differ only in prefix length, initialisation, seed or the optimizer's
numbers train together in one program. Scores each, and writes `sweep.json`, `table.md` and `report.html`. The same
command resumes a stopped or killed sweep. With `--jobs=slurm` each program is a SLURM job, with options such as
`--job partition=gpu --job gpus_per_node=8`; `--jobs=local` starts processes on this machine.
"""

import json
import shlex
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from prefix_jax import cli
from prefix_jax.workdir import REPORT, SWEEP


def define_flags() -> None:
    cli.define_recipe("get_config() and sweep()")
    cli.define_path("workdir", None, "The sweep's directory: created, or resumed if it exists.")
    flags.DEFINE_integer("members", 8, "Maximum number of rows trained in one program.", lower_bound=1)
    flags.DEFINE_string("split", "test", "The split to score: test, validation, train; empty for none.")
    flags.DEFINE_integer("limit", 0, "Records to score, from the start of the split; 0: all.", lower_bound=0)
    flags.DEFINE_bool("spread", False, "Score the --limit records evenly spaced over the split.")
    cli.define_path("forgetting", None, "A plain text in UTF-8, whose loss is measured for each row.")
    flags.DEFINE_string("only", "", "Run only programs that train a row with this text in its name.")
    flags.DEFINE_enum("jobs", None, ["slurm", "local"], "Train each program in a separate job.")
    flags.DEFINE_multi_string("job", [], "Job options, NAME=VALUE: timeout_min=240 or SLURM's partition=gpu.")
    cli.define_hosts()
    flags.DEFINE_bool("plan", False, "Only print which rows would train together.")


def main(options: flags.FlagValues) -> None:
    cli.required(config=options.config, workdir=options.workdir)
    from prefix_jax.data.data_set import check_split
    from prefix_jax.decoding import GenerationConfig as Decoding
    from prefix_jax.sweeping.groups import groups, holding
    from prefix_jax.sweeping.rows import read_rows

    if options.split:
        check_split(options.split)
    rows = read_rows(config_flags.get_config_filename(options["config"]), options.config)
    for row in rows:
        Decoding.from_config(row.config.decoding)
    if options.plan:
        found = [[row.name for row in group] for group in groups(rows, options.members)]
        for group in holding(found, options.only):
            print(json.dumps(group))
        return
    workdir = cli.new_directory(options.workdir)
    cli.enable_compile_cache()
    from prefix_jax.parallel import distributed
    from prefix_jax.reporting.sweep import read_sweep, sweep_table
    from prefix_jax.sweeping.jobs import Jobs
    from prefix_jax.sweeping.sweep import SweepOptions, sweep, sweep_in_jobs

    argv = cli.command_line()
    text = str(Path(options.forgetting).absolute()) if options.forgetting else ""
    chosen = SweepOptions(options.members, options.split, options.limit, options.spread, options.only, text)
    if options.jobs:
        state = sweep_in_jobs(rows, workdir, chosen, argv, Jobs(options.jobs, options.job))
    else:
        configs = sha256("".join(row.config.to_json() for row in rows).encode()).hexdigest()
        cli.join_hosts(options, {"workdir": str(workdir), **vars(chosen), "rows": configs})
        state = sweep(rows, workdir, chosen, argv)
    if not distributed.is_primary():
        return
    print(sweep_table(read_sweep(workdir)))
    _end([state.status(name) for group in state.chosen for name in group], options.split, workdir)


def _end(states: list[str], split: Any, workdir: Path) -> None:
    undone = states.count("waiting") + (states.count("trained") if split else 0)
    if undone:
        print(
            f"stopped with {undone} of {len(states)} rows to do; run the same command again to resume", file=sys.stderr
        )
    elif failed := states.count("failed"):
        cli.fail(f"{failed} of {len(states)} rows failed; {workdir / SWEEP} says why")
    else:
        cli.say_next(f"the report: {workdir / REPORT}", "prefix-jax runs", shlex.quote(str(workdir)))


if __name__ == "__main__":
    cli.run(main, define_flags)
