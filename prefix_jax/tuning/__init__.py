"""Tuning methods: what is trained, and what the model gets of it."""

from prefix_jax.tuning.kept import Kept
from prefix_jax.tuning.method import Method, build, names

__all__ = ["Kept", "Method", "build", "names"]
