"""8-bit frozen weights: layer matrices as int8, with a float32 scale per output.

`kernel * scale` restores the matrix to within half a step; a step is an output column's largest magnitude over 127.
Embeddings, norms, biases and routers keep their dtype.
"""

import re
from typing import Any

import numpy as np

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models.leaves import Index, Leaf

QUANTISATIONS = ("none", "int8")
_KERNEL = re.compile(r"(^|/)layers/.*kernel$")
_EXPERTS = re.compile(r"/experts_\w+/kernel$")
_LARGEST = 127


def check(name: str) -> None:
    """Raises UserError unless the quantisation is known."""
    if name not in QUANTISATIONS:
        raise UserError(f'model.quantisation is "{name}"{did_you_mean(name, QUANTISATIONS)}')


def input_axes(path: str, rank: int) -> tuple[int, ...] | None:
    """Returns the contracted axes of a matrix, after the layer axis; None for arrays that are not quantised."""
    if not _KERNEL.search(path):
        return None
    if _EXPERTS.search(path):  # a matrix for each expert
        return (2,)
    return tuple(range(1, rank - 1)) if path.endswith("/out/kernel") else (1,)


def _beside(path: str) -> str:
    """Returns the path of a kernel's scale."""
    return path.removesuffix("kernel") + "scale"


def quantise(leaves: dict[str, Leaf]) -> dict[str, Leaf]:
    """Quantises the layer kernels among a model's leaves: integers and scales, by path."""
    found: dict[str, Leaf] = {}
    for path, leaf in leaves.items():
        if (axes := input_axes(path, len(leaf.shape))) is not None:
            found |= {path: _integers(leaf, axes), _beside(path): _scale(leaf, axes)}
    return found


def shapes(flat: dict[str, Any], make: Any) -> dict[str, Any]:
    """Returns `make(shape, dtype)` for each output array of `quantise`, given leaves of these shapes."""
    found = {}
    for path, leaf in flat.items():
        if (axes := input_axes(path, len(leaf.shape))) is not None:
            found[path] = make(leaf.shape, np.int8)
            found[_beside(path)] = make(_without(leaf.shape, axes), np.float32)
    return found


def _integers(leaf: Leaf, axes: tuple[int, ...]) -> Leaf:
    def read(index: Index) -> np.ndarray:
        whole = tuple(slice(None) if axis in axes else part for axis, part in enumerate(index))
        inputs = tuple(part if axis in axes else slice(None) for axis, part in enumerate(index))[1:]
        # Layer by layer: all layers in float32 may not fit in memory.
        parts = []
        for layer in range(*index[0].indices(leaf.shape[0])):
            column = leaf.read((slice(layer, layer + 1), *whole[1:])).astype(np.float32)
            steps = _steps(column, axes).reshape([1 if a in axes else n for a, n in enumerate(column.shape)])
            parts.append(np.rint(column / steps).astype(np.int8)[(slice(None), *inputs)])
        return np.concatenate(parts)

    return Leaf(leaf.shape, np.dtype(np.int8), read)


def _scale(leaf: Leaf, axes: tuple[int, ...]) -> Leaf:
    shape = _without(leaf.shape, axes)

    def read(index: Index) -> np.ndarray:
        outputs = iter(index)
        whole = [slice(None) if axis in axes else next(outputs) for axis in range(len(leaf.shape))]
        layers = range(*whole[0].indices(leaf.shape[0]))
        parts = [leaf.read((slice(n, n + 1), *whole[1:])).astype(np.float32) for n in layers]
        return np.concatenate([_steps(part, axes) for part in parts])

    return Leaf(shape, np.dtype(np.float32), read)


def _steps(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    largest = np.abs(values).max(axes)
    return np.where(largest > 0, largest / _LARGEST, 1.0).astype(np.float32)


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)
