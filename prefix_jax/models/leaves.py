"""Lazy checkpoint arrays: leaves are reshaped, stacked and fused without reading them.

Every combinator translates an index into indices of its inputs, so that reading one shard of a fused, stacked matrix
reads only the corresponding rows.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Index = tuple[slice, ...]


@dataclass(frozen=True)
class Leaf:
    """An unread array. `read(index)` takes one slice (step 1) per axis and returns that part."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]

    def all(self) -> np.ndarray:
        """Returns the whole array."""
        return self.read((slice(None),) * len(self.shape))


def from_array(array: np.ndarray) -> Leaf:
    """Returns a leaf over an array or a memory map."""
    return Leaf(array.shape, array.dtype, lambda index: array[index])


def cast(leaf: Leaf, dtype: Any) -> Leaf:
    """Returns the leaf with the given dtype."""
    dtype = np.dtype(dtype)
    if dtype == leaf.dtype:
        return leaf
    return Leaf(leaf.shape, dtype, lambda index: leaf.read(index).astype(dtype))


def transpose(leaf: Leaf, axes: Sequence[int]) -> Leaf:
    """Returns the leaf with its axes permuted, as `np.transpose`."""
    axes = tuple(axes)

    def read(index: Index) -> np.ndarray:
        inner: list[slice] = [slice(None)] * len(axes)
        for position, axis in enumerate(axes):
            inner[axis] = index[position]
        return leaf.read(tuple(inner)).transpose(axes)

    return Leaf(tuple(leaf.shape[a] for a in axes), leaf.dtype, read)


def split(leaf: Leaf, axis: int, sizes: Sequence[int]) -> Leaf:
    """Returns the leaf with one axis split into `sizes` (row-major; sizes of 1 are allowed).

    A slice along the first new axis reads only its own rows; slices along the others are applied after reading.
    """
    sizes = tuple(sizes)
    if math.prod(sizes) != leaf.shape[axis]:
        raise ValueError(f"cannot divide an axis of {leaf.shape[axis]} into {sizes}")
    inner_size = math.prod(sizes[1:])

    def read(index: Index) -> np.ndarray:
        start, stop = _bounds(index[axis], sizes[0])
        part = slice(start * inner_size, stop * inner_size)
        rows = leaf.read((*index[:axis], part, *index[axis + len(sizes) :]))
        rows = rows.reshape(*rows.shape[:axis], stop - start, *sizes[1:], *rows.shape[axis + 1 :])
        return rows[(slice(None),) * (axis + 1) + index[axis + 1 : axis + len(sizes)]]

    return Leaf((*leaf.shape[:axis], *sizes, *leaf.shape[axis + 1 :]), leaf.dtype, read)


def merge(leaf: Leaf, axis: int, count: int) -> Leaf:
    """Returns the leaf with `count` axes from `axis` on merged into one (row-major); the inverse of `split`."""
    sizes = leaf.shape[axis : axis + count]
    total, inner_size = math.prod(sizes), math.prod(sizes[1:])

    def read(index: Index) -> np.ndarray:
        start, stop = _bounds(index[axis], total)
        first, last = start // inner_size, -(-stop // inner_size)
        inner = (slice(first, last), *(slice(None),) * (count - 1))
        rows = leaf.read((*index[:axis], *inner, *index[axis + 1 :]))
        rows = rows.reshape(*rows.shape[:axis], (last - first) * inner_size, *rows.shape[axis + count :])
        skipped = first * inner_size
        return rows[(slice(None),) * axis + (slice(start - skipped, stop - skipped),)]

    return Leaf((*leaf.shape[:axis], total, *leaf.shape[axis + count :]), leaf.dtype, read)


def narrowed(leaf: Leaf, axis: int, start: int, stop: int) -> Leaf:
    """Returns the indices from `start` up to `stop` of one axis; reading it reads only those."""

    def read(index: Index) -> np.ndarray:
        first, last = _bounds(index[axis], stop - start)
        return leaf.read((*index[:axis], slice(start + first, start + last), *index[axis + 1 :]))

    return Leaf((*leaf.shape[:axis], stop - start, *leaf.shape[axis + 1 :]), leaf.dtype, read)


def shifted(leaf: Leaf, by: float) -> Leaf:
    """Returns the leaf plus a constant, in float32."""
    return Leaf(leaf.shape, np.dtype(np.float32), lambda index: leaf.read(index).astype(np.float32) + np.float32(by))


def stack(leaves: Sequence[Leaf], axis: int = 0) -> Leaf:
    """Stacks leaves along a new axis; reading a slice reads only the leaves it covers."""
    leaves = _one_dtype(leaves)
    first = _alike(leaves)

    def read(index: Index) -> np.ndarray:
        chosen = leaves[index[axis]]
        inner = index[:axis] + index[axis + 1 :]
        shape = [b - a for a, b in map(_bounds, inner, first.shape)]
        out = np.empty((*shape[:axis], len(chosen), *shape[axis:]), first.dtype)
        for i, leaf in enumerate(chosen):
            out[(slice(None),) * axis + (i,)] = leaf.read(inner)
        return out

    return Leaf((*first.shape[:axis], len(leaves), *first.shape[axis:]), first.dtype, read)


def concatenate(leaves: Sequence[Leaf], axis: int) -> Leaf:
    """Concatenates leaves along an axis; reading a slice reads only the leaves it overlaps."""
    leaves = _one_dtype(leaves)
    first = _alike(leaves, axis)
    ends = np.cumsum([leaf.shape[axis] for leaf in leaves]).tolist()

    def read(index: Index) -> np.ndarray:
        start, stop = _bounds(index[axis], ends[-1])
        parts = []
        for leaf, end in zip(leaves, ends, strict=True):
            begin = end - leaf.shape[axis]
            a, b = max(start, begin), min(stop, end)
            if a < b:
                parts.append(leaf.read((*index[:axis], slice(a - begin, b - begin), *index[axis + 1 :])))
        if not parts:
            return first.read((*index[:axis], slice(0, 0), *index[axis + 1 :]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)

    return Leaf((*first.shape[:axis], ends[-1], *first.shape[axis + 1 :]), first.dtype, read)


def affine(leaf: Leaf, scale: np.ndarray, zero_point: np.ndarray, axis: int = -1) -> Leaf:
    """Returns `(leaf - zero_point) * scale` in float32, as in dynamic int8 quantisation.

    Args:
      leaf: integer leaf.
      scale: float32, a single number or one per index of `axis`.
      zero_point: integers of the same shape as `scale`.
      axis: axis of per-channel scales.
    """
    scale, zero = scale.astype(np.float32).ravel(), zero_point.astype(np.float32).ravel()
    axis %= len(leaf.shape)

    def read(index: Index) -> np.ndarray:
        chosen = (lambda v: v[0]) if scale.size == 1 else (lambda v: _along(v[index[axis]], axis, len(leaf.shape)))
        values = leaf.read(index).astype(np.float32)
        values -= chosen(zero)
        values *= chosen(scale)
        return values

    return Leaf(leaf.shape, np.dtype(np.float32), read)


# The values of 4-bit floats with two bits of exponent and one of mantissa; bit 3 is the sign.
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def mxfp4(blocks: Leaf, scales: Leaf) -> Leaf:
    """Returns `[..., inputs]` in float32 from MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 4-bit floats.

    Args:
      blocks: bytes `[..., blocks, 16]`, of two numbers each, the first in the lower bits.
      scales: the blocks' exponents of 2, plus 127, `[..., blocks]`.
    """

    def read(index: Index) -> np.ndarray:
        pairs, exponents = blocks.read((*index[:-1], slice(None), slice(None))), scales.read((*index[:-1], slice(None)))
        values = np.stack([_FP4[pairs & 15], _FP4[pairs >> 4]], axis=-1).reshape(*pairs.shape[:-1], -1)
        values = np.ldexp(values, exponents.astype(np.int32)[..., None] - 127)
        return values.reshape(*values.shape[:-2], -1)[..., index[-1]]

    return Leaf((*blocks.shape[:-2], blocks.shape[-2] * 32), np.dtype(np.float32), read)


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _bounds(part: slice, size: int) -> tuple[int, int]:
    start, stop, step = part.indices(size)
    if step != 1:
        raise ValueError(f"a leaf is read in steps of 1, not {step}")
    return start, max(start, stop)


def _one_dtype(leaves: Sequence[Leaf]) -> Sequence[Leaf]:
    """Casts the leaves to float32 if a checkpoint mixes float dtypes."""
    mixed = len({leaf.dtype for leaf in leaves}) > 1 and all(leaf.dtype.kind in "fV" for leaf in leaves)
    return [cast(leaf, np.float32) for leaf in leaves] if mixed else leaves


def _alike(leaves: Sequence[Leaf], except_axis: int | None = None) -> Leaf:
    """Returns the first leaf after checking that all have the same dtype and shape (except along one axis)."""

    def form(leaf: Leaf) -> tuple:
        return leaf.dtype, *(size for i, size in enumerate(leaf.shape) if i != except_axis), len(leaf.shape)

    if len({form(leaf) for leaf in leaves}) != 1:
        raise ValueError(f"leaves differ in shape or dtype: {[(leaf.shape, leaf.dtype) for leaf in leaves]}")
    return leaves[0]


def materialise(tree: Any, sharding: Any = None, in_place: bool = False) -> Any:
    """Reads a pytree of leaves into a pytree of `jax.Array`.

    Args:
      tree: a pytree whose leaves are `Leaf`.
      sharding: `None` (whole, on the default device), one `jax.sharding.Sharding` for all, a pytree of them shaped as
        `tree`, or a function from the tree of `jax.ShapeDtypeStruct` to such a pytree.
      in_place: whether arrays may alias a memory-mapped file (CPU backend); the file must then not be modified.

    Each shard is read once per process, on demand, through `jax.make_array_from_callback`.
    """
    import jax

    def is_leaf(node: Any) -> bool:
        return isinstance(node, Leaf)

    if sharding is None:
        return jax.tree.map(lambda leaf: jax.device_put(_own(leaf.all(), in_place)), tree, is_leaf=is_leaf)
    if callable(sharding):
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree, is_leaf=is_leaf)
        sharding = sharding(abstract)
    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: _sharded(leaf, sharding, in_place), tree, is_leaf=is_leaf)
    return jax.tree.map(lambda leaf, s: _sharded(leaf, s, in_place), tree, sharding, is_leaf=is_leaf)


def _own(value: np.ndarray, in_place: bool) -> np.ndarray:
    """Copies a view of a file (which is not writable) unless it may alias the file."""
    return np.asarray(value) if in_place or value.flags.writeable else np.array(value)


def _sharded(leaf: Leaf, sharding: Any, in_place: bool) -> Any:
    import jax

    def key(index: Index) -> tuple:
        return tuple(_bounds(part, size) for part, size in zip(index, leaf.shape, strict=True))

    # A shard shared by several devices is held from the first read to the last use only.
    uses = Counter(key(i) for i in sharding.addressable_devices_indices_map(leaf.shape).values())
    held: dict[tuple, np.ndarray] = {}

    def read(index: Index | None) -> np.ndarray:
        assert index is not None
        name = key(index)
        value = held.pop(name) if name in held else _own(leaf.read(index), in_place)
        uses[name] -= 1
        if uses[name] > 0:
            held[name] = value
        return value

    return jax.make_array_from_callback(leaf.shape, sharding, read)
