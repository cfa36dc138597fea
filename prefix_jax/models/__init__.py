"""Frozen language models as pure functions of (variables, prefix, tokens)."""

from typing import Any

from prefix_jax.models import families
from prefix_jax.models.families import FAMILIES, from_hf
from prefix_jax.models.layers import Places
from prefix_jax.models.specs import Spec

# A network of one of the families. To a type checker Linen's `apply` returns anything, so a precise type says less than
# none.
Model = Any


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
    network: Any = families.of(spec).network
    return network(spec, rematerialise, activations, placement, fused)


__all__ = ["FAMILIES", "Model", "build", "from_hf"]
