from prefix_jax.config import default_config


def get_config():
    config = default_config()
    config.model.source = "flan-t5-small"
    config.data.task = "e2e"
    return config
