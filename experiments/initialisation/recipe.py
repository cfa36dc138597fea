"""What a prefix starts from when there is little data: random numbers, or a model's keys and values for a word
(Figure 5).

    python -m experiments.initialisation --scale=cpu --workdir runs/initialisation

"paper": GPT-2 Medium on 100 records of E2E, the best of ten measurements in 200 steps. "cpu":
FLAN-T5-small on 100 records of E2E, 60 steps of 8, three seeds, 64 test records; eight rows at a time train in one
program.
"""

from collections.abc import Iterator
from typing import Any

from experiments import scales
from prefix_jax.config import Config

WORDS = ("active", "elephant", "summarize", "table-to-text:", "banana", "beautiful", "divide", "keep")
SEEDS = (101, 102, 103)


def get_config(scale: str = "cpu") -> Config:
    config = scales.table_to_text(scale, "e2e")
    config.prefix.length = 6
    config.data.update(limit=100, limit_seed=0)
    if scale == "cpu":
        config.training.steps = 60
    else:
        config.optimizer.learning_rate = 5e-5
        config.training.update(steps=200, batch=10)
        config.update_from_flattened_dict(scales.best_of_ten(200, 100))
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    scales.check(scale)
    for word in ("", *WORDS):
        start = {"prefix.initialisation": "text" if word else "random", "prefix.text": word}
        yield from ({**start, "training.seed": seed} for seed in SEEDS)
