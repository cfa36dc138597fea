"""Frozen language models as pure functions of (variables, prefix, tokens)."""

from typing import Any

from prefix_jax.models import families
from prefix_jax.models.families import FAMILIES, from_hf
from prefix_jax.models.layers import Sharder
from prefix_jax.models.model_config import ModelConfig

# A network of one of the families. To a type checker Linen's `apply` returns anything, so a precise type says less than
# none.
Model = Any


def build(
    model_config: ModelConfig,
    rematerialise: bool = False,
    activations: Any = None,
    sharder: Sharder | None = None,
    fused: bool = False,
) -> Model:
    """Returns the model that a spec describes.

    Args:
      rematerialise: whether layers keep only their inputs for the gradient, and compute the rest again.
      activations: the type of what runs between the matrix products; None: that of the weights.
      sharder: holds hidden states and tables to their shardings; None: there is one device.
      fused: whether attention over rows of tokens is one kernel, for TPUs; the tokens of a segment then stand side by
        side, and what has the segment id 0 sees no tokens.
    """
    network: Any = families.of(model_config).network
    return network(model_config, rematerialise, activations, sharder, fused)


__all__ = ["FAMILIES", "Model", "build", "from_hf"]
