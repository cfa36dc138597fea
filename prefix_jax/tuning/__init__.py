"""Tuning methods: what is trained, and what the model gets of it."""

from prefix_jax.tuning.method import Method, build

__all__ = ["Method", "build"]
