"""Prefix tuning against fine-tuning when there are 50 to 500 records of E2E (Figure 3).

    python -m experiments.low_data --scale=cpu --workdir runs/low_data

"paper": GPT-2 Medium, five subsets of each size and two seeds, the paper's numbers of steps. "cpu": FLAN-T5-small,
three subsets, 30 to 70 steps of 4 records, 32 test records.
"""

from collections.abc import Iterator
from typing import Any

from experiments import scales
from prefix_jax.config import Config

# Records, and the steps that the paper gave a prefix and fine-tuning.
STEPS = {50: (200, 100), 100: (200, 100), 200: (200, 200), 500: (400, 400)}
SMALL_STEPS = {50: 30, 100: 40, 200: 50, 500: 70}
SMALL_RATES = {"prefix": 2e-3, "finetune": 5e-4}


def get_config(scale: str = "cpu") -> Config:
    config = scales.table_to_text(scale, "e2e")
    config.prefix.update(length=6, initialisation="text", text="table-to-text:")
    if scale == "cpu":
        config.training.batch = 4
    else:
        config.optimizer.learning_rate = 5e-5
        config.training.batch = 10
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    paper = scales.check(scale) == "paper"
    for size, steps in STEPS.items():
        for method, own in zip(("prefix", "finetune"), steps, strict=True):
            options = {"data.limit": size, "method": method}
            if paper:
                options |= {"training.steps": own, "training.evaluate_records": size * 3 // 10}
            else:
                options |= {"training.steps": SMALL_STEPS[size], "optimizer.learning_rate": SMALL_RATES[method]}
            for subset in range(5 if paper else 3):
                yield from scales.seeded({**options, "data.limit_seed": subset}, (101, 102) if paper else (101,))
