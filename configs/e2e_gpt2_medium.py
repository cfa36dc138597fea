"""E2E with GPT-2 Medium: the paper's setting (prefix length 5, 5 epochs, batch 10, learning rate 8e-5).

    python -m prefix_jax.train --config configs/e2e_gpt2_medium.py --workdir runs/e2e_gpt2_medium
    python -m prefix_jax.evaluate --workdir runs/e2e_gpt2_medium --split test

Expect what the paper printed (arXiv v1, Table 1): BLEU 69.7, NIST 8.81, METEOR 46.1, ROUGE_L 71.4, CIDEr 2.49.
Not run by us: GPT-2's weights come from the hub. `--config configs/e2e_gpt2_medium.py:gpt2-large` takes another size.
"""

from configs.gpt2_paper import paper_config


def get_config(source: str = "gpt2-medium"):
    config = paper_config("e2e", source)
    config.prefix.length = 5
    config.optimizer.learning_rate = 8e-5
    config.training.update(epochs=5.0, batch=10)
    return config
