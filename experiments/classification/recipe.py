"""Prefix, prompt and LoRA beside each other on a classification task, FLAN-T5-small, equal steps.

    python -m experiments.classification --workdir runs/classification

The embedded set's texts: does one say that the lighthouse is open to visitors, closed, or neither? Learning rates are
what is usual for a method with Adam; none was searched for.
"""

from collections.abc import Iterator
from typing import Any

from configs import lighthouse_visitors_flan_t5_small
from prefix_jax.config import Config


def get_config(scale: str = "cpu") -> Config:
    return lighthouse_visitors_flan_t5_small.get_config()


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    yield {"method": "prefix", "optimizer.learning_rate": 2e-3}
    yield {"method": "prompt", "optimizer.learning_rate": 3e-2}
    yield {"method": "lora", "optimizer.learning_rate": 2e-3}
