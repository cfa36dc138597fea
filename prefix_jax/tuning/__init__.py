"""Tuning methods: the parameters that are trained, and how the model sees them."""

from prefix_jax.tuning.adapter import Adapter
from prefix_jax.tuning.declaration import Declaration
from prefix_jax.tuning.finetune import Finetune
from prefix_jax.tuning.infix import Infix
from prefix_jax.tuning.lora import LoRA
from prefix_jax.tuning.method import Method
from prefix_jax.tuning.method_options import MethodOptions, Together
from prefix_jax.tuning.methods import METHODS, build, declared, find, known, names, parts, slots
from prefix_jax.tuning.prefix import Prefix
from prefix_jax.tuning.prompt import Prompt
from prefix_jax.tuning.tuned_state import TunedState

__all__ = [
    "METHODS",
    "Adapter",
    "Declaration",
    "Finetune",
    "Infix",
    "LoRA",
    "Method",
    "MethodOptions",
    "Prefix",
    "Prompt",
    "Together",
    "TunedState",
    "build",
    "declared",
    "find",
    "known",
    "names",
    "parts",
    "slots",
]
