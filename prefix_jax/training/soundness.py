"""Integrity of checkpoints: a checksum of arrays and values, and the options of the run that wrote them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

# Progress values beside the checksum; earlier versions stored neither options nor a checksum.
_VALUES = {"patience", "seconds", "next_step"}
_CHECKED = _VALUES | {"options", "checksum"}
_GOLDEN, _MIX = 0x9E3779B1, (0x85EBCA6B, 0xC2B2AE35)


class Damaged(Exception):
    """A damaged checkpoint; the message is a short reason."""


def sealed(tree: PyTree, progress: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the progress, round-tripped through JSON, with a checksum of it and of all arrays.

    Every process of a run must call this at the same step.
    """
    values = json.loads(json.dumps(progress))
    return {**values, "checksum": checksum(tree, values)}


def verify(tree: PyTree, progress: Mapping[str, Any]) -> None:
    """Verifies restored arrays and values against their checksum; checkpoints of earlier versions have none.

    Raises:
      Damaged: the checksum does not match.
    """
    if "checksum" in progress:
        values = {name: value for name, value in progress.items() if name != "checksum"}
        if checksum(tree, values) != progress["checksum"]:
            raise Damaged("its checksum does not match its arrays")


def check_progress(progress: Any, step: int) -> None:
    """Checks the names and types of the progress values.

    Raises:
      Damaged: they are not those of a checkpoint of this step.
    """
    if not isinstance(progress, Mapping) or set(progress) not in (_VALUES, _CHECKED):
        raise Damaged("the values beside its arrays are not those of a checkpoint")
    patience, names = progress["patience"], {"best", "step", "last_step", "since"}
    if not isinstance(patience, list) or not all(isinstance(p, Mapping) and set(p) == names for p in patience):
        raise Damaged("its early-stopping state cannot be read")
    if progress["next_step"] != step or not isinstance(progress["seconds"], int | float):
        raise Damaged(f"it is not the checkpoint of step {step}")


def differing(saved: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the differences, in words, between the options of the saving and the restoring run.

    Options known to only one of them are ignored.
    """
    if len(saved) != len(wanted):
        return [f"{len(saved)} runs trained together, and here {len(wanted)} do"]
    return [
        f"{name} was {old[name]!r} and is {new[name]!r}"
        for old, new in zip(saved, wanted, strict=True)
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    ]


def checksum(tree: PyTree, values: Mapping[str, Any]) -> str:
    """Returns a digest of the bits, paths, shapes and dtypes of all arrays, and of JSON values.

    Mixed words are summed on the devices, so that the result does not depend on the mesh.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_sums([_numbers(leaf) for _, leaf in leaves]))  # scalars, replicated on every device
    said = [
        [jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype), [int(word) for word in pair]]
        for (path, leaf), pair in zip(leaves, sums, strict=True)
    ]
    return hashlib.sha256(json.dumps([said, values], sort_keys=True).encode()).hexdigest()


def _numbers(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@jax.jit
def _sums(leaves: list[Array]) -> list[tuple[Array, Array]]:
    """Returns two sums of each array's words, mixed with their index: detects any single and nearly all changes."""
    return [(_sum(leaf, 0), _sum(leaf, 1)) for leaf in leaves]


def _sum(leaf: Array, number: int) -> Array:
    words = _words(leaf)
    place = jnp.uint32(number)
    for axis, size in enumerate(words.shape):
        place = place * jnp.uint32(size & 0xFFFFFFFF) + lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    # Each word passes through a bijection, so that changing one always changes the sum.
    mixed = (words ^ (place * jnp.uint32(_GOLDEN))) * jnp.uint32(_MIX[number])
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(_MIX[1 - number])
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)


def _words(leaf: Array) -> Array:
    """Returns the bits of each number as a 32-bit word; wider numbers give several."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    kinds = {1: jnp.uint8, 2: jnp.uint16}
    return lax.bitcast_convert_type(leaf, kinds.get(leaf.dtype.itemsize, jnp.uint32)).astype(jnp.uint32)
