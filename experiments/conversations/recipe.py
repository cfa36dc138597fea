"""Prefix, prompt and LoRA beside each other on conversations, SmolLM2-135M-Instruct, equal steps.

    python -m experiments.conversations --workdir runs/conversations

A guide answers questions about a lighthouse from its facts. Learning rates are what is usual for a method with Adam;
none was searched for.
"""

from collections.abc import Iterator
from typing import Any

from configs import lighthouse_chat
from prefix_jax.config import Config


def get_config(scale: str = "cpu") -> Config:
    return lighthouse_chat.get_config()


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    yield {"method": "prefix", "optimizer.learning_rate": 3e-3}
    yield {"method": "prompt", "optimizer.learning_rate": 3e-2}
    yield {"method": "lora", "optimizer.learning_rate": 2e-3}
