"""E2E with SmolLM2-135M-Instruct on a CPU: a prefix of 10 through the MLP, from the model's own vocabulary.

    python -m prefix_jax.train --config configs/e2e_smollm2_135m.py --workdir runs/e2e_smollm2_135m
    python -m prefix_jax.evaluate --workdir runs/e2e_smollm2_135m --split test --bare

About 23 minutes on 2 quiet cores with bfloat16 units; 35 where the cores were shared. Expect BLEU 65.0, NIST 8.33,
METEOR 42.5, ROUGE_L 67.0, CIDEr 2.17 on the test set.
"""

from prefix_jax.config import default_config


def get_config():
    config = default_config()
    config.model.source = "smollm2-135m"
    config.model.dtype = "bfloat16"
    config.data.task = "e2e"
    config.prefix.update(length=10, reparameterisation="mlp", initialisation="vocabulary")
    config.optimizer.update(learning_rate=5e-4, schedule="cosine", warmup_steps=40)
    config.training.update(steps=900, batch=8, evaluate_every=300, evaluate_records=128, checkpoint_every=100)
    config.decoding.update(strategy="beam", beams=5, max_length=80)
    return config
