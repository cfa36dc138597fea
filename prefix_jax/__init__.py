"""prefix_jax: tune, compare, measure and use prefixes on frozen language models in JAX."""

__version__ = "0.1.0"
