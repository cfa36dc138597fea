"""Score against prefix length (the paper's Figure 4) on the set that the repository carries, with FLAN-T5-small.

    python -m prefix_jax.sweep --config configs/demo_prefix_length.py --workdir runs/prefix_length

Eight prefixes, two seeds for each of four lengths, train in one program: `runs/prefix_length/report.html` has the table
and the plot.
"""

from configs.demo import get_config as demo_config


def get_config():
    config = demo_config()
    config.training.batch = 4
    return config


def sweep():
    for length in (1, 4, 12, 32):
        for seed in (101, 102):
            yield {"prefix.length": length, "training.seed": seed}
