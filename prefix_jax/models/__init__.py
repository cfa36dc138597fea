"""Frozen language models as pure functions of (variables, prefix, tokens)."""

from typing import Any

from prefix_jax.models.bart import Bart
from prefix_jax.models.gpt2 import GPT2
from prefix_jax.models.layers import Places
from prefix_jax.models.llama import Llama
from prefix_jax.models.specs import BartSpec, GPT2Spec, LlamaSpec, Spec, T5Spec
from prefix_jax.models.t5 import T5

# One of those below. To a type checker Linen's `apply` returns anything at all, so a precise type says less than none.
Model = Any

_MODELS = {GPT2Spec: GPT2, LlamaSpec: Llama, T5Spec: T5, BartSpec: Bart}


def build(
    spec: Spec,
    rematerialise: bool = False,
    activations: Any = None,
    placement: Places | None = None,
    fused: bool = False,
) -> Model:
    """Returns the model that a spec describes.

    Args:
      rematerialise: whether layers keep only their inputs for the gradient, and compute the rest again.
      activations: the type of what runs between the matrix products; None: that of the weights.
      placement: holds hidden states and tables to their shardings; None: there is one device.
      fused: whether attention over rows of tokens is one kernel, for TPUs; the tokens of a segment then stand side by
        side, and what has the segment id 0 sees no tokens.
    """
    return _MODELS[type(spec)](spec, rematerialise, activations, placement, fused)
