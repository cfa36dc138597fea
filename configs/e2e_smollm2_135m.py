from prefix_jax.config import default_config


def get_config():
    config = default_config()
    config.model.source = "smollm2-135m"
    config.data.task = "e2e"
    return config
