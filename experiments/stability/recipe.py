"""Keys and values trained directly against those of an MLP, over learning rates and seeds (section 4.3 of the paper).

    python -m experiments.stability --scale=cpu --workdir runs/stability

"paper": GPT-2 Medium on E2E as published, four learning rates, three seeds. "cpu": FLAN-T5-small on E2E, 60 steps of 8
records, five learning rates, three seeds, 64 test records; eight rows at a time train in one program.
"""

from collections.abc import Iterator
from typing import Any

from experiments import published, scales
from prefix_jax.config import Config

RATES = {"paper": (1e-5, 5e-5, 8e-5, 5e-4), "cpu": (5e-4, 2e-3, 8e-3, 3e-2, 1e-1)}
SEEDS = (101, 102, 103)


def get_config(scale: str = "cpu") -> Config:
    config = scales.table_to_text(scale, "e2e")
    config.prefix.update(length=published.PREFIX_LENGTHS["e2e"], initialisation="random")
    if scale == "cpu":
        config.training.steps = 60
    else:
        config.update_from_flattened_dict(published.training("prefix", "e2e"))
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    for kind in ("mlp", "none"):
        for rate in RATES[scales.check(scale)]:
            options = {"prefix.reparameterisation": kind, "optimizer.learning_rate": rate}
            yield from ({**options, "training.seed": seed} for seed in SEEDS)
