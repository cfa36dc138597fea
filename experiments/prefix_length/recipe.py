"""Score against prefix length on DART and, at the paper's scale, on XSUM (Figure 4).

    python -m experiments.prefix_length --scale=cpu --workdir runs/prefix_length

"paper": GPT-2 Medium and BART-large, the lengths that the paper tried. "cpu": FLAN-T5-small, 100 steps of 8 records,
five lengths of three seeds each, 96 test records; eight rows at a time train in one program.
"""

from collections.abc import Iterator
from typing import Any

from experiments import published, scales
from prefix_jax.config import Config, changed

LENGTHS = (1, 5, 10, 20, 40)
SUMMARY_LENGTHS = (1, 10, 20, 50, 80, 100, 200, 300)
SEEDS = (101, 102, 103)


def get_config(scale: str = "cpu") -> Config:
    config = scales.table_to_text(scale, "dart")
    if scale == "paper":
        config.update_from_flattened_dict(published.training("prefix", "dart"))
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    for length in LENGTHS:
        yield from ({"prefix.length": length, "training.seed": seed} for seed in SEEDS)
    if scales.check(scale) == "paper":
        summaries = changed(scales.bart(1).to_dict(), get_config(scale).to_dict())
        summaries |= published.training("prefix", "xsum")
        for length in SUMMARY_LENGTHS:
            yield {**summaries, "prefix.length": length}
