"""Summaries: XSUM with a prefix of 2 % and of 0.1 % of the model.

    python -m experiments.xsum --scale=paper --workdir runs/xsum

"paper": BART-large as published (learning rate 5e-5, 30 epochs, batch 14). "cpu": FLAN-T5-small with prefixes of the
same shares, 100 steps of 8 articles cut to 256 tokens.

Not run: neither BART's weights nor XSUM's training articles can be had offline; tested on small weights and a few rows.
"""

from collections.abc import Iterator
from typing import Any

from experiments import published, scales
from prefix_jax.config import Config

# The lengths whose share of the model is nearest to 2 % and to 0.1 %: a slot has 73,728 numbers in BART-large (406
# million), 18,432 in FLAN-T5-small (77 million). The paper took 100 for the larger.
LENGTHS = {"paper": (published.PREFIX_LENGTHS["xsum"], 5), "cpu": (84, 4)}


def get_config(scale: str = "cpu") -> Config:
    if scales.check(scale) == "paper":
        config = scales.bart(published.PREFIX_LENGTHS["xsum"])
        config.update_from_flattened_dict(published.training("prefix", "xsum"))
        return config
    return small_summaries()


def small_summaries() -> Config:
    """Returns what the summarising studies start from at the scale of a CPU."""
    config = scales.small("xsum")
    config.data.max_source_length = 256
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    for length in LENGTHS[scales.check(scale)]:
        yield {"prefix.length": length}
