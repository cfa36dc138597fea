"""Frozen language models as pure functions of (variables, prefix, tokens)."""

from prefix_jax.models.gpt2 import GPT2
from prefix_jax.models.llama import Llama
from prefix_jax.models.specs import GPT2Spec, LlamaSpec, Spec, T5Spec
from prefix_jax.models.t5 import T5

Model = GPT2 | Llama | T5

_MODELS = {GPT2Spec: GPT2, LlamaSpec: Llama, T5Spec: T5}


def build(spec: Spec, rematerialise: bool = False) -> Model:
    """Returns the model that a spec describes."""
    return _MODELS[type(spec)](spec, rematerialise)
