"""The earlier path of `prefix_jax.reporting.svg.plots`, which notebooks import."""

from prefix_jax.reporting.svg.plots import *  # noqa: F403
