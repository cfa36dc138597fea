"""`python -m prefix_jax.inspect --workdir DIR [--split validation] [--limit 32] [--against OTHER_DIR]`

Measures, teacher-forced on real records, the share of attention that each layer and head gives to the prefix, and the
change of next-token predictions; for prompts, the nearest tokens; with `--against`, the distance from another run's
prefix. Writes `inspection.json`, which `report.html` shows.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli
from prefix_jax.errors import UserError


def define_flags() -> None:
    cli.define_path("workdir", None, "The run directory of a training run.")
    flags.DEFINE_string("split", "validation", "train, validation or test.")
    flags.DEFINE_integer("limit", 32, "Records to read, from the start of the split.", lower_bound=1)
    cli.define_path("against", None, "Another run with a prefix for the same model, for comparison.")
    flags.DEFINE_bool("json", False, "Print the result as JSON.")
    cli.define_overrides()


def main(options: flags.FlagValues) -> None:
    cli.required(workdir=options.workdir)
    cli.enable_compile_cache()
    from prefix_jax import inference, inspection
    from prefix_jax.reporting.report import write_report
    from prefix_jax.workdir import is_run

    workdir = Path(str(options.workdir))
    tuned = inference.open_tuned(workdir, cli.overrides(options))
    other = _prefix_of(options.against, tuned) if options.against else None
    name = Path(options.against or "").resolve().name
    record = inspection.write(
        workdir, tuned.session, tuned.kept, options.split, options.limit, other, name, shlex.join(cli.command_line())
    )
    report = write_report(workdir) if is_run(workdir) else None
    if options.json:
        print(json.dumps(record))
    else:
        _show(record)
    if report is not None:
        cli.say_next(f"the report: {report}")


def _prefix_of(folder: str, tuned: Any) -> Any:
    from prefix_jax.tuning import store

    kept, _ = store.load(folder, tuned.session.model_config, tuned.session.pretrained.identity)
    if kept.prefix is None or tuned.kept.prefix is None:
        raise UserError("--against compares prefixes, and one of the two runs keeps none")
    return kept.prefix


def _show(record: Mapping[str, Any]) -> None:
    from prefix_jax.reporting.tables import text_table

    print(
        f"{record['tokens']} target tokens of {record['records']} {record['split']} records: the next token's "
        f"distribution moves by {record['change']:.3f} nats, its likeliest word changes in "
        f"{100 * record['changed_words']:.0f} %"
    )
    if shares := record["prefix_share"]:
        rows = [
            [site, layer, *(f"{100 * share:.1f}" for share in heads)]
            for site, layers in shares.items()
            for layer, heads in enumerate(layers)
        ]
        heads = max(len(row) for row in rows) - 2
        padded = [row + [""] * (heads + 2 - len(row)) for row in rows]
        print(text_table(padded, ["site", "layer", *(f"head {n}" for n in range(heads))], "attention to the prefix, %"))
    if "distance" in record:
        rows = [
            [site, kind, layer, *(f"{value:.3f}" for value in values)]
            for site, kinds in record["distance"].items()
            for kind, measures in kinds.items()
            for layer, values in enumerate(zip(*measures.values(), strict=True))
        ]
        columns = ["site", "", "layer", "cosine", "relative distance", "cosine to the nearest slot"]
        print(text_table(rows, columns, f"distance from the prefix of {record['against']}"))
    for slot, words in enumerate(record.get("nearest_words", [])):
        print(f"slot {slot}: {' '.join(map(repr, words))}")


if __name__ == "__main__":
    cli.run(main, define_flags)
