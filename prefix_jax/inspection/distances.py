"""Distances between two prefixes, such as those of two tasks."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from prefix_jax.errors import UserError
from prefix_jax.models.prefix import SITES, Prefix, prefix_of


class Distance(NamedTuple):
    """Distance between the keys, or the values, of two prefixes in each layer.

    Attributes:
      cosine: cosine between them, flattened over slots and heads.
      relative: norm of the difference over the mean norm.
      nearest: mean, over slots of the first, of the highest cosine to a slot of the second; independent of slot order,
        as attention is.
    """

    cosine: Float[np.ndarray, "layers"]
    relative: Float[np.ndarray, "layers"]
    nearest: Float[np.ndarray, "layers"]


def distances(one: Prefix, other: Prefix) -> dict[str, dict[str, Distance]]:
    """Returns the distances between two prefixes of equal length by site, for "key" and "value".

    Raises:
      UserError: they differ in sites, layers or shapes.
    """
    found = {}
    for site in SITES:
        a, b = prefix_of(one, site), prefix_of(other, site)
        if a is None and b is None:
            continue
        if a is None or b is None or a.key.shape != b.key.shape or a.layers != b.layers:
            raise UserError(
                f"the prefixes differ in the shape of their {site} site; compare two of one length and kind"
            )
        pairs = {"key": (a.key, b.key), "value": (a.value, b.value)}
        found[site] = {name: _distance(*map(np.asarray, pair)) for name, pair in pairs.items()}
    if not found:
        raise UserError("neither of the two is a prefix")
    return found


def _distance(
    a: Float[np.ndarray, "layers heads slots width"], b: Float[np.ndarray, "layers heads slots width"]
) -> Distance:
    slots_a, slots_b = (np.moveaxis(x, 2, 1).reshape(x.shape[0], x.shape[2], -1) for x in (a, b))
    whole_a, whole_b = (x.reshape(len(x), -1) for x in (slots_a, slots_b))
    norms = (_norm(whole_a) + _norm(whole_b)) / 2
    relative = _norm(whole_a - whole_b) / np.maximum(norms, 1e-12)
    cosine = (_unit(whole_a) * _unit(whole_b)).sum(-1)
    nearest = np.einsum("lsw,ltw->lst", _unit(slots_a), _unit(slots_b)).max(-1).mean(-1)
    return Distance(cosine, relative, nearest)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, axis=-1)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
