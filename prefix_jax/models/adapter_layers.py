"""Layers that methods other than prefixes add to a frozen network: low-rank updates and bottlenecks, each in a separate
collection beside `params`, present only if a method adds it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from prefix_jax.models.matmul import batched, matmul, save_residual

LORA = "lora"
ADAPTER = "adapter"
PROMPT = "prompt"
TUNED = "tuned"
# Parts of a fused kernel's second to last axis, in order; a query group has as many columns as queries.
PARTS = ("query", "key", "value")


def low_rank(x: Float[Array, "... C"], tree: Mapping[str, Any], outputs: tuple[int, ...]) -> Array:
    """Returns `(x a) b`, `[..., *outputs]`, for a projection: one pair, or one per part of a fused kernel.

    A pair is `{"a": [C, rank], "b": [rank, *outputs]}` (Hu et al. 2021); the scale is folded into `b`. With an axis
    before these, each row of a batch has a pair of its own.
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
    if pair["a"].ndim > 2:
        rows = x.reshape(len(pair["a"]), -1, x.shape[-1])
        b = pair["b"].reshape(*pair["b"].shape[:2], -1)
        wide = batched(batched(rows, pair["a"], b.dtype), b, b.dtype).astype(x.dtype)
        return wide.reshape(*x.shape[:-1], *outputs)
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


class Prompt(NamedTuple):
    """Embeddings before the input, `[P, E]`; or of each row, `[rows, P, E]`, of which the first `reserved` are used."""

    embeddings: Array
    reserved: Int[Array, "rows"] | None = None


def prompt_of(module: nn.Module) -> Prompt | None:
    """Returns the prompt among the variables of a module."""
    get = lambda name: module.get_variable(PROMPT, name) if module.has_variable(PROMPT, name) else None
    embeddings = get("embeddings")
    return None if embeddings is None else Prompt(embeddings, get("reserved"))


def with_prompt(embedded: Float[Array, "*batch T E"], positions: Array, prompt: Prompt | None) -> Array:
    """Replaces the first positions of each segment, which are reserved, by the rows of a prompt."""
    if prompt is None:
        return embedded
    count = prompt.embeddings.shape[-2]
    if prompt.reserved is None:
        rows = jnp.take(prompt.embeddings, jnp.clip(positions, 0, count - 1), axis=0).astype(embedded.dtype)
        return jnp.where((positions < count)[..., None], rows, embedded)
    places = jnp.broadcast_to(positions, embedded.shape[:-1]).reshape(len(prompt.reserved), -1)
    rows = jnp.take_along_axis(prompt.embeddings, jnp.clip(places, 0, count - 1)[..., None], axis=1)
    own = (places < prompt.reserved[:, None]).reshape(embedded.shape[:-1])
    return jnp.where(own[..., None], rows.reshape(embedded.shape).astype(embedded.dtype), embedded)
