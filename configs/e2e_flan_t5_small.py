"""E2E with FLAN-T5-small on a CPU: a prefix of 10 at all three sites, through the MLP, from the model's own vocabulary.

    python -m prefix_jax.train --config configs/e2e_flan_t5_small.py --workdir runs/e2e_flan_t5_small
    python -m prefix_jax.evaluate --workdir runs/e2e_flan_t5_small --split test --bare

Took 8 and a half minutes on 2 cores with bfloat16 units. Expect BLEU 68.4, NIST 8.71, METEOR 44.1, ROUGE_L 69.4,
CIDEr 2.29 on the test set.
"""

from prefix_jax.config import default_config


def get_config():
    config = default_config()
    config.model.source = "flan-t5-small"
    config.model.dtype = "bfloat16"
    config.data.task = "e2e"
    config.prefix.update(length=10, reparameterisation="mlp", initialisation="vocabulary")
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=20)
    config.training.update(steps=500, batch=16, evaluate_every=250, checkpoint_every=100)
    config.decoding.update(strategy="beam", beams=5, max_length=80)
    return config
