"""Chat with SmolLM2-135M-Instruct on a CPU: a guide who answers questions about lighthouses from their facts.

    python -m prefix_jax.train --config configs/lighthouse_chat.py --workdir runs/chat
    python -m prefix_jax.evaluate --workdir runs/chat --split test --limit 100 --spread --bare

Expect a perplexity of 1.09, and 73 of 100 last turns word for word (the bare model: 12.4 and none), as in
`experiments/conversations`.

For conversations of your own: --config.data.task=chat --config.data.path=chat.jsonl, a file with a row
{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]} for each.
"""

from prefix_jax.config import default_config


def get_config():
    config = default_config()
    config.model.source = "smollm2-135m"
    config.data.task = "lighthouse_chat"
    config.prefix.update(length=10, reparameterisation="mlp", initialisation="vocabulary")
    config.optimizer.update(learning_rate=3e-3, schedule="cosine", warmup_steps=5)
    config.training.update(steps=40, batch=8, log_every=5, evaluate_every=20, evaluate_records=32, checkpoint_every=20)
    config.decoding.update(strategy="greedy", max_length=40)
    return config
