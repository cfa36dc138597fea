"""The two scales of each study, and settings shared by recipes.

"paper": the models and hyperparameters of Li & Liang 2021, whose weights come from the hub. "cpu": FLAN-T5-small or
SmolLM2-135M on small subsets, for one core in minutes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configs.gpt2_paper import paper_config
from prefix_jax.config import Config, default_config
from prefix_jax.errors import UserError, did_you_mean

SCALES = ("paper", "cpu")


def check(scale: str) -> str:
    """Returns the scale; raises UserError if it is unknown."""
    if scale not in SCALES:
        raise UserError(f'"{scale}" is not a scale{did_you_mean(scale, SCALES)}')
    return scale


def table_to_text(scale: str, task: str) -> Config:
    """Returns the base configuration of the E2E, WebNLG and DART studies at a scale."""
    return paper_config(task, "gpt2-medium") if check(scale) == "paper" else small(task)


def small(task: str, source: str = "flan-t5-small") -> Config:
    """Returns a run for one core: 100 steps of 8 records, greedy decoding, without intermediate evaluation."""
    config = default_config()
    config.model.update(source=source, dtype="bfloat16")
    config.data.update(task=task, max_target_length=192)  # DART's longest text has 189 tokens
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=10)
    config.training.update(steps=100, batch=8, evaluate_every=0, checkpoint_every=1000, tensorboard=False)
    config.decoding.update(strategy="greedy", max_length=80, batch=64)
    return config


def seeded(options: Mapping[str, Any], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yields one row per seed, which seeds initialisation or, for fine-tuning (which has none), the order of the
    records.
    """
    draws = options["method"] != "finetune"
    for number, seed in enumerate(seeds):
        yield {**options, "training.seed": seed} if draws else {**options, "data.seed": number}


def best_of_ten(steps: int, size: int) -> dict[str, Any]:
    """Returns options that select the best of ten evaluations on the paper's validation set for `size` records."""
    every = max(1, steps // 10)
    return {"training.evaluate_every": every, "training.patience": 10, "training.evaluate_records": size * 3 // 10}


def bart(length: int) -> Config:
    """Returns the paper's summariser: BART-large, three prefixes through an MLP of 800, beam 6.

    The decoder's positions begin at 0, as in the authors' BART; their GPT-2's begin behind the prefix.
    """
    config = paper_config("xsum", "facebook/bart-large")
    config.prefix.update(length=length, hidden=800, position_offset="zero")
    config.data.update(max_source_length=512, max_target_length=128)
    config.decoding.update(beams=6, min_length=11, max_length=62, length_penalty=0.8, banned_tokens=())
    return config
