"""The earlier path of `prefix_jax.reporting.svg.standalone`, which notebooks import."""

from prefix_jax.reporting.svg.standalone import *  # noqa: F403
