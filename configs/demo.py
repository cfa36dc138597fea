"""The main job on the set that the repository carries: FLAN-T5-small, a prefix of 10 at all three sites.

    make demo

does both of

    python -m prefix_jax.train --config configs/demo.py --workdir runs/demo
    python -m prefix_jax.evaluate --workdir runs/demo --split test --bare
"""

from prefix_jax.config import default_config


def get_config():
    config = default_config()
    config.model.source = "flan-t5-small"
    config.model.dtype = "bfloat16"
    config.data.task = "lighthouse"
    config.optimizer.learning_rate = 2e-3
    config.training.update(steps=100, batch=16, evaluate_every=50, evaluate_records=96, checkpoint_every=50)
    config.decoding.update(strategy="greedy", max_length=80)
    return config
