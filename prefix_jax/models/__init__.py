"""Frozen language models as pure functions of (variables, prefix, tokens)."""

from typing import Any

from prefix_jax.models import families
from prefix_jax.models.families import FAMILIES, from_hf
from prefix_jax.models.layers import Sharder
from prefix_jax.models.model_config import ModelConfig

# A network of one of the families. Linen's `apply` is untyped, so that a more precise type would be misleading.
Model = Any


def build(
    model_config: ModelConfig,
    rematerialise: bool = False,
    activations: Any = None,
    sharder: Sharder | None = None,
    kernel: str | None = None,
) -> Model:
    """Builds the model of a model config.

    Args:
      rematerialise: whether layers store only their inputs and recompute the rest in the backward pass.
      activations: dtype of values between matrix products; None: the weights' dtype.
      sharder: constrains hidden states and embedding tables to their shardings; None: a single device.
      kernel: what computes attention over rows of tokens: "pallas", a kernel for TPUs, "cudnn", one for NVIDIA GPUs, or
        None. With a kernel the tokens of a segment must be contiguous, and queries with segment id 0 see no tokens.
    """
    network: Any = families.of(model_config).network
    return network(model_config, rematerialise, activations, sharder, kernel)


__all__ = ["FAMILIES", "Model", "build", "from_hf"]
