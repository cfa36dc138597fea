"""Attention Matching (2602.16284): fewer keys and values, with a bias each, that attend as those of a document do.

For one KV head with document keys K [n, D] and values V [n, D], and queries q [M, D] that are already scaled, let
e_ij = exp(q_i k_j), the mass Z_i = sum_j e_ij and the output o_i = sum_j e_ij v_j / Z_i. The head gets P slots:

1. keys C_k: those of the document whose attention e_ij / Z_i has the largest root mean square over the queries;
2. biases beta = log w: w = argmin ||E_C w - Z|| within bounds above 0, E_C = exp(q C_k), so that the mass stays;
3. values C_v = argmin ||softmax(q C_k + beta) C_v - o||.

Attention over a document and a text is the mean of that over each, weighted by their masses: slots with the
document's mass and output can stand for it before any text. Rows of exponentials are divided by the row's largest of
the document. The systems are solved on the host in float64, which accelerators lack.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from prefix_jax.models.prefix import Prefix, PrefixKV

Array = np.ndarray


class Matching(NamedTuple):
    """How slots are chosen and solved for.

    Attributes:
      score: of a key over queries: "rms" (root mean square of its attention) or "max".
      kept: how many first tokens are always slots: the attention sink.
      bounds: of the weights w = exp(bias); those of the authors' configuration.
      held_out: one of so many queries is left out of the solution, and measures its errors; 0: none.
    """

    score: str = "rms"
    kept: int = 1
    bounds: tuple[float, float] = (float(np.exp(-3)), float(np.exp(3)))
    held_out: int = 8


class Slots(NamedTuple):
    """The slots of one head. `places` are those of the document's tokens whose keys they have, ascending."""

    key: Float[Array, "P D"]
    value: Float[Array, "P D"]
    bias: Float[Array, "P"]
    places: Int[Array, "P"]


class Errors(NamedTuple):
    """Errors of slots on queries that they were not solved for, for each layer and KV head.

    Attributes:
      mass: root mean square of the relative error of the mass.
      output: norm of the error of the outputs over the norm of the outputs.
    """

    mass: Float[Array, "layers kv_heads"]
    output: Float[Array, "layers kv_heads"]


def capped(logits: Float[Array, "M n"], cap: float | None) -> Float[Array, "M n"]:
    """Returns logits with the soft cap of a model that has one."""
    return logits if cap is None else cap * np.tanh(logits / cap)


def choose(attention: Float[Array, "M n"], slots: int, score: str = "rms", kept: int = 1) -> Int[Array, "P"]:
    """Returns the places of the keys with the largest score, ascending; the first `kept` are always among them."""
    scores = attention.max(0) if score == "max" else np.sqrt(np.mean(attention * attention, 0))
    scores = scores.astype(np.float64)
    scores[:kept] = np.inf
    return np.sort(np.argsort(-scores, kind="stable")[:slots])


def slot_weights(
    exponentials: Float[Array, "M P"], mass: Float[Array, "M"], bounds: tuple[float, float]
) -> Float[Array, "P"]:
    """Returns weights of slots that restore the mass best: non-negative least squares above the lower bound.

    Those above the upper bound are set to it.
    """
    from scipy import optimize  # slow to import

    low, high = bounds
    square, missing = reduced(exponentials, (mass - low * exponentials.sum(1))[:, None])
    above, _ = optimize.nnls(square, missing[:, 0], maxiter=30 * exponentials.shape[1])
    return np.minimum(low + above, high)


def reduced(
    matrix: Float[Array, "M P"], right: Float[Array, "M X"], cutoff: float = 1e-12
) -> tuple[Float[Array, "R P"], Float[Array, "R X"]]:
    """Returns the least-squares problem `matrix @ x = right` in at most P orthogonal equations, in float64.

    Those whose squared singular value is below `cutoff` of the largest are left out: M equations in float32 say nothing
    about them.
    """
    matrix, right = matrix.astype(np.float64), right.astype(np.float64)
    squared, basis = np.linalg.eigh(matrix.T @ matrix)
    known = squared > cutoff * squared[-1]
    scale = np.sqrt(squared[known])
    basis = basis[:, known].T
    return scale[:, None] * basis, basis @ (matrix.T @ right) / scale[:, None]


def masses(
    query: Float[Array, "M D"], key: Float[Array, "n D"], cap: float | None = None
) -> tuple[Float[Array, "M 1"], Float[Array, "M n"], Float[Array, "M"]]:
    """Returns each query's largest logit, its exponentials over that one's, and their sum."""
    logits = capped(query @ key.T, cap)
    top = logits.max(1, keepdims=True)
    exponentials = np.exp(logits - top)
    return top, exponentials, exponentials.sum(1)


def attend(
    query: Float[Array, "M D"], slots: Slots, top: Float[Array, "M 1"], cap: float | None = None
) -> tuple[Float[Array, "M"], Float[Array, "M P"]]:
    """Returns the mass of slots, over exp(top), and the attention to each."""
    exponentials = np.exp(capped(query @ slots.key.T, cap) - top + slots.bias)
    mass = exponentials.sum(1)
    return mass, exponentials / mass[:, None]


def solve(
    query: Float[Array, "M D"],
    key: Float[Array, "n D"],
    value: Float[Array, "n D"],
    slots: int,
    options: Matching = Matching(),  # noqa: B008 (immutable)
    cap: float | None = None,
) -> Slots:
    """Returns `slots` slots in place of the n keys and values, of which there must be as many or more."""
    top, exponentials, mass = masses(query, key, cap)
    attention = exponentials / mass[:, None]
    places = choose(attention, slots, options.score, options.kept)
    bias = np.log(slot_weights(exponentials[:, places], mass, options.bounds))
    found = Slots(key[places], value[places], bias, places)
    _, weights = attend(query, found, top, cap)
    # The smallest change of the document's values, where the queries leave some of it open.
    missing = attention @ value - weights @ found.value
    square, right = reduced(weights, missing)
    change = square.T @ (right / (square * square).sum(1, keepdims=True))
    return found._replace(value=found.value + change)


def errors(
    query: Float[Array, "M D"],
    key: Float[Array, "n D"],
    value: Float[Array, "n D"],
    slots: Slots,
    cap: float | None = None,
) -> tuple[float, float]:
    """Returns the errors of one head's slots on queries: of the mass and of the output, as in `Errors`."""
    top, exponentials, mass = masses(query, key, cap)
    output = exponentials @ value / mass[:, None]
    own, weights = attend(query, slots, top, cap)
    relative = own / mass - 1
    missing = np.linalg.norm(weights @ slots.value - output) / np.linalg.norm(output)
    return float(np.sqrt(np.mean(relative * relative))), float(missing)


def compress(
    document: Prefix,
    queries: Float[Array, "layers kv_heads M head_dim"],
    slots: int,
    options: Matching = Matching(),  # noqa: B008 (immutable)
    cap: float | None = None,
) -> tuple[Prefix, Errors]:
    """Returns a prefix of `slots` slots for a document (see `document.read`), and its errors by head.

    Args:
      queries: see `document.queries`.
      cap: the soft cap of the model's attention logits.
    """
    site = document.decoder
    assert site is not None, "a document is read by a decoder"
    keys, values = np.asarray(site.key), np.asarray(site.value)
    layers, heads = keys.shape[:2]
    out = {name: np.zeros((layers, heads, slots, keys.shape[3]), np.float32) for name in ("key", "value")}
    bias, found = np.zeros((layers, heads, slots), np.float32), np.zeros((2, layers, heads))
    held = np.arange(queries.shape[2]) % options.held_out == options.held_out - 1 if options.held_out else None
    for layer, head in np.ndindex(layers, heads):
        query, key, value = queries[layer, head], keys[layer, head], values[layer, head]
        fitted, tried = (query, query) if held is None or not held.any() else (query[~held], query[held])
        own = solve(fitted, key, value, slots, options, cap)
        out["key"][layer, head], out["value"][layer, head], bias[layer, head] = own.key, own.value, own.bias
        found[:, layer, head] = errors(tried, key, value, own, cap)
    made = PrefixKV(jnp.asarray(out["key"]), jnp.asarray(out["value"]), jnp.asarray(bias))
    return document.replace(decoder=made), Errors(found[0], found[1])  # type: ignore[attr-defined]
