"""The earlier path of `prefix_jax.reporting.svg.attention_map`, which notebooks import."""

from prefix_jax.reporting.svg.attention_map import *  # noqa: F403
