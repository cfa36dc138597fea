"""Tuning methods: the parameters that are trained, and how the model sees them."""

from prefix_jax.tuning.declaration import Declaration
from prefix_jax.tuning.method import Method
from prefix_jax.tuning.methods import METHODS, build, declared, find, known, names, parts, slots
from prefix_jax.tuning.tuned_state import TunedState

__all__ = [
    "METHODS",
    "Declaration",
    "Method",
    "TunedState",
    "build",
    "declared",
    "find",
    "known",
    "names",
    "parts",
    "slots",
]
