"""Layers that methods other than prefixes add to a frozen network: low-rank updates and bottlenecks, each in a separate
collection beside `params`, present only if a method adds it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from prefix_jax.models.matmul import matmul, save_residual

LORA = "lora"
ADAPTER = "adapter"
PROMPT = "prompt"
TUNED = "tuned"
# Parts of a fused kernel's second to last axis, in order; a query group has as many columns as queries.
PARTS = ("query", "key", "value")


def low_rank(x: Float[Array, "... C"], tree: Mapping[str, Any], outputs: tuple[int, ...]) -> Array:
    """Returns `(x a) b`, `[..., *outputs]`, for a projection: one pair, or one per part of a fused kernel.

    A pair is `{"a": [C, rank], "b": [rank, *outputs]}` (Hu et al. 2021); the scale is folded into `b`.
    """
    if "a" in tree:
        return _pair(x, tree, outputs)
    widths = dict(zip(PARTS, (outputs[-2] - 2, 1, 1), strict=True))
    pieces = []
    for part, width in widths.items():
        shape = (*outputs[:-2], width, outputs[-1])
        empty = jnp.zeros((*x.shape[:-1], *shape), x.dtype)
        pieces.append(_pair(x, tree[part], shape) if part in tree else empty)
    return jnp.concatenate(pieces, axis=-2)


def _pair(x: Array, pair: Mapping[str, Array], outputs: tuple[int, ...]) -> Array:
    narrow = save_residual(matmul(x, pair["a"]))
    wide = matmul(narrow, pair["b"].reshape(pair["b"].shape[0], -1))
    return wide.reshape(*x.shape[:-1], *outputs)


class Adapter(nn.Module):
    """A bottleneck with a skip connection after a sublayer (Houlsby et al. 2019); the identity unless one is added."""

    activation: Callable[[Array], Array] = jax.nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        if not self.has_variable(ADAPTER, "down"):
            return x
        down, up = (self.get_variable(ADAPTER, name) for name in ("down", "up"))
        inner = self.activation(save_residual(matmul(x, down["kernel"])) + down["bias"].astype(x.dtype))
        return x + matmul(inner, up["kernel"]) + up["bias"].astype(x.dtype)


def with_prompt(embedded: Float[Array, "*batch T E"], positions: Array, prompt: Any) -> Array:
    """Replaces the first P positions of each segment, which are reserved, by the rows of a prompt `[P, E]`."""
    if prompt is None:
        return embedded
    rows = jnp.take(prompt, jnp.clip(positions, 0, len(prompt) - 1), axis=0).astype(embedded.dtype)
    return jnp.where((positions < len(prompt))[..., None], rows, embedded)
