"""Score against prefix length (the paper's Figure 4) on the set that the repository carries, with FLAN-T5-small.

    python -m prefix_jax.sweep --config configs/demo_prefix_length.py --workdir runs/prefix_length

Eight prefixes, two seeds for each of four lengths, train in one program, in about 5 minutes on 2 cores:
`runs/prefix_length/report.html` has the table and the plot. Expect BLEU 59, 61, 61 and 64 for lengths 1, 4, 12 and 32.
Each of them is a run of its own, as if from

    python -m prefix_jax.train --config configs/demo_prefix_length.py --config.prefix.length=12 --workdir runs/length_12
    python -m prefix_jax.evaluate --workdir runs/length_12 --split test
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
