"""WebNLG 2017 with GPT-2 Medium: the paper's setting (prefix length 5, 5 epochs, batch 5, learning rate 5e-5).

    python -m prefix_jax.train --config configs/webnlg_gpt2_medium.py --workdir runs/webnlg_gpt2_medium
    python -m prefix_jax.evaluate --workdir runs/webnlg_gpt2_medium --split test

Expect what the paper printed (arXiv v1, Table 1): BLEU_seen 62.9, BLEU_unseen 45.6, BLEU_all 55.1, METEOR_all 0.41,
TER_all 0.41.
Not run by us: GPT-2's weights come from the hub. `--config configs/webnlg_gpt2_medium.py:gpt2-large` takes another
size.
"""

from configs.gpt2_paper import paper_config


def get_config(source: str = "gpt2-medium"):
    config = paper_config("webnlg", source)
    config.prefix.length = 5
    config.optimizer.learning_rate = 5e-5
    config.training.update(epochs=5.0, batch=5)
    return config
