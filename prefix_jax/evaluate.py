"""`python -m prefix_jax.evaluate --workdir DIR [--split test] [--bare] [--limit N] [--spread]
[--inspect] [--forgetting FILE] [--config.decoding.OPTION=VALUE ...]`

Scores a tuned model with the task's official metrics; writes `scores.json`, `samples.jsonl` and `report.html`. With
`--inspect` it also measures attention on records of the same split (see `prefix_jax.inspect`);
with `--forgetting FILE`, the losses of a plain text with and without what was tuned.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli


def define_flags() -> None:
    cli.define_path("workdir", None, "The run directory of a training run.")
    flags.DEFINE_string("split", "test", "train, validation or test.")
    flags.DEFINE_bool("bare", False, "Also score the model without the prefix.")
    flags.DEFINE_bool("tuned", True, "Score the model with the prefix; --notuned keeps the earlier scores.")
    flags.DEFINE_integer("limit", 0, "Records to score, from the start of the split; 0: all.", lower_bound=0)
    flags.DEFINE_bool("spread", False, "Score the --limit records evenly spaced over the split.")
    flags.DEFINE_bool("inspect", False, "Also measure attention on 32 records of the split.")
    cli.define_path("forgetting", None, "A plain text in UTF-8; its loss is measured with and without the prefix.")
    flags.DEFINE_bool("json", False, "Print the scores as one JSON object.")
    cli.define_overrides()
    cli.define_hosts()


def main(options: flags.FlagValues) -> None:
    cli.required(workdir=options.workdir)
    cli.enable_compile_cache()
    overrides = cli.overrides(options)
    same = {
        name: options[name].value for name in ("workdir", "split", "bare", "tuned", "limit", "spread", "forgetting")
    }
    cli.join_hosts(options, same | overrides)
    from prefix_jax import inference
    from prefix_jax.errors import UserError
    from prefix_jax.parallel import distributed

    workdir = Path(str(options.workdir))
    if options.inspect and distributed.is_multiprocess():
        raise UserError("--inspect is for one process; leave it out and call prefix_jax.inspect afterwards")
    config = inference.configured(workdir, overrides)
    entry, tuned = inference.evaluate_opened(
        workdir,
        options.split,
        options.bare,
        options.tuned,
        options.limit,
        overrides,
        options.spread,
        plain_text=Path(str(options.forgetting)) if options.forgetting else None,
    )
    if distributed.is_primary():
        _finish(workdir, entry, tuned, options)
    cli.end_failed_run(entry["verdict"], config.evaluation.failed_run)


def _finish(workdir: Path, entry: dict[str, Any], tuned: Any, options: flags.FlagValues) -> None:
    """Writes the report and prints the scores."""
    from prefix_jax import inspection
    from prefix_jax.reporting.report import write_report
    from prefix_jax.reporting.tables import entry_table, forgetting_line
    from prefix_jax.workdir import is_run

    if options.inspect:
        inspection.write(workdir, tuned.session, tuned.kept, options.split)
    report = write_report(workdir) if is_run(workdir) else None
    if options.json:
        print(json.dumps(entry["tuned"]))
        if options.forgetting:
            print(forgetting_line(entry["forgetting"]), file=sys.stderr)
    else:
        print(entry_table(entry, f"{entry['task']}, {entry['records']} {options.split} records"))
    if report is not None:
        where = shlex.quote(str(workdir))
        cli.say_next(f"the report: {report}", "prefix-jax generate --workdir", where, "--input TEXT")


if __name__ == "__main__":
    cli.run(main, define_flags)
