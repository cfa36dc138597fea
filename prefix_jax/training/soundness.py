"""What makes a checkpoint sound: a checksum of its arrays and values, and the options of the run that wrote it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

# What a checkpoint's progress holds beside the checksum; earlier versions wrote no options and no checksum.
_VALUES = {"patience", "seconds", "next_step"}
_CHECKED = _VALUES | {"options", "checksum"}
_GOLDEN, _MIX = 0x9E3779B1, (0x85EBCA6B, 0xC2B2AE35)


class Damaged(Exception):
    """A checkpoint that is not what was saved; the message says in a few words why."""


def sealed(tree: PyTree, progress: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the progress, as JSON gives it back, with a checksum of it and of all arrays.

    Every process of a run calls this at the same step.
    """
    values = json.loads(json.dumps(progress))
    return {**values, "checksum": checksum(tree, values)}


def verify(tree: PyTree, progress: Mapping[str, Any]) -> None:
    """Compares restored arrays and values with their checksum; one of an earlier version has none.

    Raises:
      Damaged: they differ.
    """
    if "checksum" in progress:
        values = {name: value for name, value in progress.items() if name != "checksum"}
        if checksum(tree, values) != progress["checksum"]:
            raise Damaged("its numbers are not those that were saved")


def check_progress(progress: Any, step: int) -> None:
    """Checks the names and types of the values saved beside the arrays.

    Raises:
      Damaged: they are not those of a checkpoint of this step.
    """
    if not isinstance(progress, Mapping) or set(progress) not in (_VALUES, _CHECKED):
        raise Damaged("the values beside its arrays are not those of a checkpoint")
    patience, names = progress["patience"], {"best", "step", "last_step", "since"}
    if not isinstance(patience, list) or not all(isinstance(p, Mapping) and set(p) == names for p in patience):
        raise Damaged("what it says of early stopping cannot be read")
    if progress["next_step"] != step or not isinstance(progress["seconds"], int | float):
        raise Damaged(f"it is not the checkpoint of step {step}")


def differing(saved: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the options, in words, in which the run that wrote a checkpoint differs from the one that reads it.

    An option that only one of them knows does not count.
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
    """Returns a digest of all bits of the arrays, of their paths, shapes and types, and of JSON values.

    Sums of mixed words are taken where the arrays lie, so that the mesh makes no difference.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_sums([_numbers(leaf) for _, leaf in leaves]))  # numbers, which every device has
    said = [
        [jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype), [int(word) for word in pair]]
        for (path, leaf), pair in zip(leaves, sums, strict=True)
    ]
    return hashlib.sha256(json.dumps([said, values], sort_keys=True).encode()).hexdigest()


def _numbers(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@jax.jit
def _sums(leaves: list[Array]) -> list[tuple[Array, Array]]:
    """Two sums of each array's words, each word mixed with its place: any single change shows, others all but never."""
    return [(_sum(leaf, 0), _sum(leaf, 1)) for leaf in leaves]


def _sum(leaf: Array, number: int) -> Array:
    words = _words(leaf)
    place = jnp.uint32(number)
    for axis, size in enumerate(words.shape):
        place = place * jnp.uint32(size & 0xFFFFFFFF) + lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    # Each word goes through a bijection, so that a change of one always changes the sum.
    mixed = (words ^ (place * jnp.uint32(_GOLDEN))) * jnp.uint32(_MIX[number])
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(_MIX[1 - number])
    return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)


def _words(leaf: Array) -> Array:
    """Returns the bits of each number as a 32-bit word, of wider ones as several."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    kinds = {1: jnp.uint8, 2: jnp.uint16}
    return lax.bitcast_convert_type(leaf, kinds.get(leaf.dtype.itemsize, jnp.uint32)).astype(jnp.uint32)
