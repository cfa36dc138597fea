"""`python -m prefix_jax.sweep --config configs/NAME.py --workdir DIR [--config.SECTION.OPTION=VALUE ...]`

Runs what `sweep()` in the recipe yields: rows that differ only in prefix length, initialisation, seed or the
optimizer's numbers train together in one program. Scores each, and writes `sweep.json`, `table.md` and `report.html`.
The same command goes on with a sweep that was stopped or killed. With `--jobs=slurm` each program is a SLURM job, with
options such as `--job partition=gpu --job gpus_per_node=8`; `--jobs=local` starts processes on this machine.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from prefix_jax import cli

_CONFIG = cli.define_recipe("get_config() and sweep()")
_WORKDIR = cli.define_path("workdir", None, "The sweep's directory: made, or gone on with.")
_MEMBERS = flags.DEFINE_integer("members", 8, "Rows trained in one program, at most.", lower_bound=1)
_SPLIT = flags.DEFINE_string("split", "test", "The split that is scored: test, validation, train; empty for none.")
_LIMIT = flags.DEFINE_integer("limit", 0, "Records scored, from the start of the split; 0: all.", lower_bound=0)
_SPREAD = flags.DEFINE_bool("spread", False, "Score the --limit records evenly spaced over the split.")
_ONLY = flags.DEFINE_string("only", "", "Only the programs that train a row with this text in its name.")
_JOBS = flags.DEFINE_enum("jobs", None, ["slurm", "local"], "Train each program in a job of its own.")
_JOB = flags.DEFINE_multi_string("job", [], "Of jobs: NAME=VALUE, as timeout_min=240 or SLURM's partition=gpu.")
_JOIN = cli.define_hosts()
_PLAN = flags.DEFINE_bool("plan", False, "Only print which rows would train together.")


def main() -> None:
    cli.required(config=_CONFIG.value, workdir=_WORKDIR.value)
    from prefix_jax.data.tasks import check_split
    from prefix_jax.decoding import GenerationConfig as Decoding
    from prefix_jax.sweeping.groups import groups, holding
    from prefix_jax.sweeping.rows import read_rows

    if _SPLIT.value:
        check_split(_SPLIT.value)
    rows = read_rows(config_flags.get_config_filename(flags.FLAGS["config"]), _CONFIG.value)
    for row in rows:
        Decoding.from_config(row.config.decoding)
    if _PLAN.value:
        found = [[row.name for row in group] for group in groups(rows, _MEMBERS.value)]
        for group in holding(found, _ONLY.value):
            print(json.dumps(group))
        return
    workdir = cli.new_directory(_WORKDIR.value)
    cli.enable_compile_cache()
    from prefix_jax.parallel import distributed
    from prefix_jax.reporting.sweep import read_sweep, sweep_table
    from prefix_jax.sweeping.jobs import Jobs
    from prefix_jax.sweeping.sweep import SweepOptions, sweep, sweep_in_jobs

    argv = cli.command_line()
    options = SweepOptions(_MEMBERS.value, _SPLIT.value, _LIMIT.value, _SPREAD.value, _ONLY.value)
    if _JOBS.value:
        state = sweep_in_jobs(rows, workdir, options, argv, Jobs(_JOBS.value, _JOB.value))
    else:
        configs = sha256("".join(row.config.to_json() for row in rows).encode()).hexdigest()
        _JOIN({"workdir": str(workdir), **vars(options), "rows": configs})
        state = sweep(rows, workdir, options, argv)
    if not distributed.is_primary():
        return
    print(sweep_table(read_sweep(workdir)))
    _end([state.status(name) for group in state.chosen for name in group], _SPLIT.value, workdir)


def _end(states: list[str], split: Any, workdir: Path) -> None:
    undone = states.count("waiting") + (states.count("trained") if split else 0)
    if undone:
        print(
            f"stopped with {undone} of {len(states)} rows to do; run the same command again to go on", file=sys.stderr
        )
    elif failed := states.count("failed"):
        cli.fail(f"{failed} of {len(states)} rows failed; {workdir}/sweep.json says why")
    else:
        print(f"\nThe report: {workdir}/report.html", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
