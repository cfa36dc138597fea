"""Prefix tuning against fine-tuning when there are 50 to 500 records of E2E and, at the paper's scale, of XSUM
(Figure 3).

    python -m experiments.low_data --scale=cpu --workdir runs/low_data

"paper": GPT-2 Medium and BART-large, five subsets of each size and two seeds, the paper's lengths of training; the best
of ten measurements on validation records, 30 % as many as train. "cpu": FLAN-T5-small on E2E, three subsets, 60 to 100
steps of 8 records, 64 test records; no choice among steps.
"""

from collections.abc import Iterator
from typing import Any

from experiments import scales
from prefix_jax.config import Config, changed

METHODS = ("prefix", "finetune")
# Records, and the steps that the paper gave a prefix and fine-tuning on E2E, and the epochs on XSUM.
STEPS = {50: (200, 100), 100: (200, 100), 200: (200, 200), 500: (400, 400)}
EPOCHS = {50: (30, 30), 100: (20, 10), 200: (20, 3), 500: (20, 3)}
SUMMARY_BATCH = {"prefix": 5, "finetune": 6}
SMALL_STEPS = {50: 60, 100: 80, 200: 100, 500: 100}
SMALL_RATES = {"prefix": 2e-3, "finetune": 5e-4}


def get_config(scale: str = "cpu") -> Config:
    config = scales.table_to_text(scale, "e2e")
    config.prefix.update(length=6, initialisation="text", text="table-to-text:")
    if scale == "paper":
        config.optimizer.learning_rate = 5e-5
        config.training.batch = 10
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    if scales.check(scale) == "cpu":
        for size, steps in SMALL_STEPS.items():
            for method, rate in SMALL_RATES.items():
                options = {"data.limit": size, "method": method, "training.steps": steps}
                yield from _on_subsets({**options, "optimizer.learning_rate": rate}, 3, (101,))
        return
    for size, steps in STEPS.items():
        for method, own in zip(METHODS, steps, strict=True):
            options = {"data.limit": size, "method": method, "training.steps": own}
            yield from _on_subsets(options | scales.best_of_ten(own, size), 5, (101, 102))
    summaries = changed(_summaries().to_dict(), get_config(scale).to_dict())
    for size, epochs in EPOCHS.items():
        for method, own in zip(METHODS, epochs, strict=True):
            batch = SUMMARY_BATCH[method]
            options = {"data.limit": size, "method": method, "training.batch": batch, "training.epochs": float(own)}
            chosen = scales.best_of_ten(own * -(-size // batch), size)
            yield from _on_subsets({**summaries, **options, **chosen}, 5, (101, 102))


def _summaries() -> Config:
    config = scales.bart(length=1)
    config.prefix.update(initialisation="text", text="summarize")
    config.optimizer.update(learning_rate=5e-5, warmup_steps=100)
    return config


def _on_subsets(options: dict[str, Any], subsets: int, seeds: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for subset in range(subsets):
        yield from scales.seeded({**options, "data.limit_seed": subset}, seeds)
