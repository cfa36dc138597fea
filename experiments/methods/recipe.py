"""The methods beside each other, on E2E with FLAN-T5-small, 2,400 records each (a seventeenth of an epoch).

    python -m experiments.methods --workdir runs/methods

Learning rates are what is usual for a method with Adam; none was searched for. Half an hour on 2 cores, beam 5, the
first 100 test records.
"""

from collections.abc import Iterator
from typing import Any

from prefix_jax.config import Config, default_config


def get_config(scale: str = "cpu") -> Config:
    config = default_config()
    config.model.update(source="flan-t5-small", dtype="bfloat16")
    config.data.task = "e2e"
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=20)
    config.training.update(steps=150, batch=16, evaluate_every=75, evaluate_records=128, checkpoint_every=75)
    config.decoding.update(strategy="beam", beams=5, max_length=80)
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    yield {"method": "prefix", "optimizer.learning_rate": 2e-3}
    yield {"method": "prefix", "prefix.reparameterisation": "none", "optimizer.learning_rate": 5e-3}
    yield {"method": "prompt", "optimizer.learning_rate": 3e-2}
    yield {"method": "lora", "optimizer.learning_rate": 2e-3}
    yield {"method": "adapter", "optimizer.learning_rate": 2e-3}
    yield {"method": "finetune", "finetune.layers": 2, "optimizer.learning_rate": 1e-3}
    yield {"method": "finetune", "optimizer.learning_rate": 5e-4}
