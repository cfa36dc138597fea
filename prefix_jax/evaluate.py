"""`python -m prefix_jax.evaluate --workdir DIR [--split test] [--bare] [--limit N] [--spread]
[--inspect] [--config.decoding.OPTION=VALUE ...]`

Scores what a run tuned with the task's official metrics; writes `scores.json`, `samples.jsonl` and `report.html`. With
`--inspect` it also measures, on records of the same split, where attention goes (see `prefix_jax.inspect`).
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli

_WORKDIR = cli.define_path("workdir", None, "The run directory of a training run.")
_SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
_BARE = flags.DEFINE_bool("bare", False, "Score the model without the prefix too.")
_TUNED = flags.DEFINE_bool("tuned", True, "Score the model with the prefix; --notuned keeps the earlier scores.")
_LIMIT = flags.DEFINE_integer("limit", 0, "Records scored, from the start of the split; 0: all.", lower_bound=0)
_SPREAD = flags.DEFINE_bool("spread", False, "Score the --limit records evenly spaced over the split.")
_INSPECT = flags.DEFINE_bool("inspect", False, "Also measure on 32 of the split's records where attention goes.")
_JSON = flags.DEFINE_bool("json", False, "Print the scores as one JSON object.")
_OVERRIDES = cli.define_overrides()
_JOIN = cli.define_hosts()


def main() -> None:
    cli.required(workdir=_WORKDIR.value)
    cli.enable_compile_cache()
    _JOIN(
        {name: flags.FLAGS[name].value for name in ("workdir", "split", "bare", "tuned", "limit", "spread")}
        | _OVERRIDES()
    )
    from prefix_jax import inference
    from prefix_jax.errors import UserError
    from prefix_jax.evaluation import scorers
    from prefix_jax.parallel import distributed

    workdir = Path(str(_WORKDIR.value))
    if _INSPECT.value and distributed.is_multiprocess():
        raise UserError("--inspect is for one process; leave it out and call prefix_jax.inspect afterwards")
    config = inference.configured(workdir, _OVERRIDES())
    if _INSPECT.value:
        scorers.try_out(config)
    tuned = inference.open_tuned(workdir, _OVERRIDES()) if _INSPECT.value else None
    opened = tuned and tuned.session
    entry = inference.evaluate(
        workdir, _SPLIT.value, _BARE.value, _TUNED.value, _LIMIT.value, _OVERRIDES(), _SPREAD.value, opened
    )
    if distributed.is_primary():
        _finish(workdir, entry, tuned)
    cli.end_failed_run(entry["verdict"], config.evaluation.failed_run)


def _finish(workdir: Path, entry: dict[str, Any], tuned: Any) -> None:
    """Writes the report, and prints the scores."""
    from prefix_jax import inspection
    from prefix_jax.reporting.report import write_report
    from prefix_jax.reporting.tables import entry_table

    if tuned is not None:
        inspection.write(workdir, tuned.session, tuned.kept, _SPLIT.value)
    if (workdir / "config.json").exists():
        write_report(workdir)
    if _JSON.value:
        print(json.dumps(entry["tuned"]))
    else:
        print(entry_table(entry, f"{entry['task']}, {entry['records']} {_SPLIT.value} records"))


if __name__ == "__main__":
    cli.run(main)
