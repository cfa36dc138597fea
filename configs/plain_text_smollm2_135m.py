"""Language modelling of plain text with SmolLM2-135M-Instruct on a CPU: descriptions of lighthouses, without facts.

    python -m prefix_jax.train --config configs/plain_text_smollm2_135m.py --workdir runs/plain_text
    python -m prefix_jax.evaluate --workdir runs/plain_text --split test --bare

7 minutes on 2 cores. Expect a perplexity of 6.87 on the test set, and 103 of the bare model.

For text of your own: --config.data.path=book.txt --config.data.source_column=text, or a table with a column `text`.
"""

from pathlib import Path

import prefix_jax
from prefix_jax.config import default_config


def get_config():
    config = default_config()
    config.model.update(source="smollm2-135m", dtype="bfloat16")
    config.data.task = "perplexity"
    # The texts of the set that the package carries: the first of each row's references.
    config.data.path = str(Path(prefix_jax.__file__).parent / "data" / "lighthouse")
    config.data.source_column = "references.0"
    config.prefix.update(length=10, reparameterisation="mlp", initialisation="vocabulary")
    config.optimizer.update(learning_rate=1e-3, schedule="cosine", warmup_steps=20)
    config.training.update(steps=100, batch=16, evaluate_every=50, evaluate_records=96, checkpoint_every=50)
    return config
