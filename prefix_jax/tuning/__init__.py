"""Tuning methods: what is trained, and what the model gets of it."""

from prefix_jax.tuning.method import Method, build, names
from prefix_jax.tuning.tuned_state import TunedState

__all__ = ["Method", "TunedState", "build", "names"]
