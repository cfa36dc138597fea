
from prefix_jax.config import default_config

def get_config():
    config = default_config()
    config.model.source = "models/gpt2"
    config.data.update(task="text", path="rows.jsonl")
    config.prefix.update(length=3, hidden=8, embedding=8)
    config.optimizer.learning_rate = 1e-2
    config.training.update(steps=12, batch=4, log_every=1, evaluate_every=4, evaluate_records=4, checkpoint_every=4,
                           tensorboard=False)
    config.decoding.update(beams=2, max_length=8, batch=4)
    return config

def sweep():
    for length in (1, 3):
        for seed in (1, 2):
            yield {"prefix.length": length, "training.seed": seed}
    yield {"prefix.hidden": 4}
