"""What the prefix owes to every layer having one and to its place: embeddings alone, and an infix (Table 4).

    python -m experiments.ablation --scale=cpu --workdir runs/ablation

"paper": GPT-2 Medium on E2E from random numbers, ten epochs (the prefix as in the main table: five). "cpu":
SmolLM2-135M on E2E, 100 steps of 8 records, one seed, 64 test records.
"""

from collections.abc import Iterator
from typing import Any

from experiments import published, scales
from prefix_jax.config import Config

LENGTHS = (1, 10, 20)  # those that Table 4 prints


def get_config(scale: str = "cpu") -> Config:
    if scales.check(scale) == "cpu":
        config = scales.small("e2e", "smollm2-135m")
        config.optimizer.learning_rate = 2e-3
        return config
    config = scales.table_to_text(scale, "e2e")
    config.update_from_flattened_dict(published.training("prefix", "e2e"))
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    paper = scales.check(scale) == "paper"
    longer = {"training.epochs": 10.0} if paper else {}
    # The paper's prefix of the main table, and the length at which ours is beside the others.
    yield {"method": "prefix", "prefix.length": published.PREFIX_LENGTHS["e2e"] if paper else 10}
    for length in LENGTHS:
        yield {"method": "infix", "infix.length": length, **_start("infix", paper), **longer}
    for kind in ("none", "mlp"):
        for length in LENGTHS:
            # Embeddings alone want a larger step than keys and values.
            rate = {} if paper else {"optimizer.learning_rate": 3e-2 if kind == "none" else 2e-3}
            options = {"prompt.length": length, "prompt.reparameterisation": kind}
            yield {"method": "prompt", **options, **rate, **_start("prompt", paper), **longer}


def _start(method: str, paper: bool) -> dict[str, Any]:
    return {f"{method}.initialisation": "random"} if paper else {}
