"""Classification: does a text say that a lighthouse is open to visitors? A set that the repository carries.

    python -m prefix_jax.train --config configs/lighthouse_visitors_flan_t5_small.py --workdir runs/visitors
    python -m prefix_jax.evaluate --workdir runs/visitors --split test --bare

An input is answered by the log-likelihoods of its three labels. For data of your own (columns `text` and `label`):
--config.data.task=classification --config.data.path=DIR, and --config.task.labels=0=no,1=yes for words of labels.
"""

from prefix_jax.config import default_config


def get_config():
    config = default_config()
    config.model.update(source="flan-t5-small", dtype="bfloat16")
    config.data.task = "lighthouse_visitors"
    config.data.source_format = "{source} Are visitors allowed: open, closed or unknown?{eos}"
    config.optimizer.update(learning_rate=2e-3, schedule="cosine", warmup_steps=20)
    config.training.update(steps=100, batch=16, evaluate_every=50, evaluate_records=96, checkpoint_every=50)
    config.decoding.batch = 16
    return config
