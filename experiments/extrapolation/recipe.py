"""Extrapolation: WebNLG's ten categories of the training set against the five that only its test set has.

    python -m experiments.extrapolation --scale=cpu --workdir runs/extrapolation

"paper": GPT-2 Medium and Large, as published. "cpu": FLAN-T5-small, 100 steps of 8 records (a 23rd of an epoch),
three seeds, 120 test records.
"""

from collections.abc import Iterator
from typing import Any

from experiments import published, scales
from prefix_jax.config import Config

SEEDS = (101, 102, 103)
# Learning rates that are usual for a method with Adam; none was searched for.
SMALL = {
    "prefix": {"method": "prefix", "optimizer.learning_rate": 2e-3},
    "finetune": {"method": "finetune", "optimizer.learning_rate": 5e-4},
    "lora": {"method": "lora", "optimizer.learning_rate": 2e-3},
    "top 2": {"method": "finetune", "finetune.layers": 2, "optimizer.learning_rate": 1e-3},
}


def get_config(scale: str = "cpu") -> Config:
    config = scales.table_to_text(scale, "webnlg")
    config.prefix.length = published.PREFIX_LENGTHS["webnlg"]
    if scale == "cpu":
        config.data.max_target_length = 128
        config.decoding.batch = 32
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    if scales.check(scale) == "cpu":
        for options in SMALL.values():
            yield from scales.seeded(options, SEEDS)
        return
    for source in ("gpt2-medium", "gpt2-large"):
        for method in ("prefix", "finetune"):
            options = {"model.source": source, "method": method, **published.training(method, "webnlg")}
            yield from scales.seeded(options, SEEDS)
