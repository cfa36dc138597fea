"""What the three GPT-2 recipes share: training and decoding as Li & Liang 2021 ran them (arXiv 2101.00190v1)."""

from prefix_jax.config import Config, default_config


def paper_config(task: str, source: str) -> Config:
    config = default_config()
    config.model.source = source
    config.data.update(task=task, max_target_length=256)  # DART's longest text has 581 letters
    # MLP of width 512 from a random start; tokens follow the prefix.
    config.prefix.update(reparameterisation="mlp", hidden=512, initialisation="random", position_offset="length")
    config.optimizer.update(schedule="linear", warmup_steps=0, clip=1.0, weight_decay=0.0)
    config.training.update(loss="examples", seed=101, evaluate_every=1000, checkpoint_every=1000, log_every=50)
    # Beam 5, 5 to 100 new tokens, no line breaks (tokens 628 and 198).
    config.decoding.update(strategy="beam", beams=5, min_length=5, max_length=100, banned_tokens=(628, 198))
    return config
