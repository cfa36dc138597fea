"""Diagnosis of non-finite values in a tree, run only after a failure."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def fault(tree: PyTree) -> str:
    """Returns the first array of a tree with non-finite values and their count; "" if all are finite."""
    bad, count = [], 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        count += 1
        if found := int(_not_finite(leaf)):
            bad.append((jax.tree_util.keystr(path, simple=True, separator="/"), found, leaf.size))
    if not bad:
        return ""
    name, found, size = bad[0]
    more = f", the first of {len(bad)} such arrays among {count}" if len(bad) > 1 else ""
    return f"{found:,} of the {size:,} numbers of {name} are not finite{more}"


@jax.jit
def _not_finite(leaf: Array) -> Array:
    return jnp.sum(~jnp.isfinite(leaf))


def blame(base: Any, tuned: PyTree) -> str:
    """Returns the cause of non-finite outputs: the frozen weights, the tuned state, or the input."""
    if found := fault(base):
        return f"in the frozen weights {found}; get the model again"
    if found := fault(tuned):
        return f"in what was tuned {found}; train it again with a lower --config.optimizer.learning_rate"
    return (
        "the frozen weights and what was tuned are finite, so that the model overflows on this input; set "
        "--config.model.dtype=float32, or leave the input out"
    )
