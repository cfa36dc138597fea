"""`python -m prefix_jax.inspect --workdir DIR [--split validation] [--limit 32]`

Measures on real records how much attention each layer and head gives to the prefix, and how what was tuned changes the
next token; of prompts, the nearest words. Writes `inspection.json`, which `report.html` shows.
"""

import json
from pathlib import Path

from absl import flags

from prefix_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory of a training run.")
_SPLIT = flags.DEFINE_string("split", "validation", "train, validation or test.")
_LIMIT = flags.DEFINE_integer("limit", 32, "Records read, from the start of the split.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "Print what is written as JSON.")
_OVERRIDES = cli.define_overrides()


def main() -> None:
    cli.required(workdir=_WORKDIR.value)
    cli.enable_compile_cache()
    from prefix_jax import disk, inference, inspection
    from prefix_jax.reporting.report import write_report
    from prefix_jax.reporting.tables import text_table
    from prefix_jax.training.session import text_pairs

    workdir = Path(str(_WORKDIR.value))
    tuned = inference.open_tuned(workdir, _OVERRIDES())
    records = text_pairs(tuned.session.config, _SPLIT.value)[: _LIMIT.value]
    found = inspection.measure(tuned.session, tuned.kept, records)
    record = {
        "split": _SPLIT.value,
        "records": len(records),
        "tokens": found.tokens,
        "prefix_share": {site: share.round(5).tolist() for site, share in found.prefix_share.items()},
        "change": found.change,
        "changed_words": found.changed_words,
    }
    if tuned.kept.reserved:
        record["nearest_words"] = inspection.nearest_words(tuned.session, tuned.kept)
    disk.write_text(workdir / "inspection.json", json.dumps(record, indent=1) + "\n")
    if (workdir / "config.json").exists():
        write_report(workdir)
    if _JSON.value:
        print(json.dumps(record))
        return
    print(
        f"{found.tokens} target tokens of {len(records)} {_SPLIT.value} records: the next token's distribution moves "
        f"by {found.change:.3f} nats, its likeliest word changes in {100 * found.changed_words:.0f} %"
    )
    if found.prefix_share:
        rows = [
            [site, layer, *(f"{100 * share:.1f}" for share in heads)]
            for site, layers in found.prefix_share.items()
            for layer, heads in enumerate(layers.tolist())
        ]
        heads = max(len(row) for row in rows) - 2
        padded = [row + [""] * (heads + 2 - len(row)) for row in rows]
        print(text_table(padded, ["site", "layer", *(f"head {n}" for n in range(heads))], "attention to the prefix, %"))
    for slot, words in enumerate(record.get("nearest_words", [])):
        print(f"slot {slot}: {' '.join(map(repr, words))}")


if __name__ == "__main__":
    cli.run(main)
