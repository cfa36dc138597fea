"""Weights in 8-bit floats with a scale for each block, as transformers' "fp8" quantisation stores them, in float32.

`X.weight` (float8) goes with `X.weight_scale_inv`, by which its blocks are multiplied, or all of it if the
configuration gives no `weight_block_size`.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from prefix_jax.errors import UserError
from prefix_jax.models.leaves import Index, Leaf

_SCALE = ".weight_scale_inv"
_TYPES = {np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)}


def dequantised(config: dict[str, Any], table: Mapping[str, Leaf]) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """Returns a checkpoint of "fp8" without its scales and without `quantization_config`; any other as it is.

    Raises:
      UserError: the scales do not fit the weights.
    """
    section = config.get("quantization_config")
    if not isinstance(section, Mapping) or section.get("quant_method") != "fp8":
        return config, dict(table)
    found = {name: leaf for name, leaf in table.items() if not name.endswith((_SCALE, ".activation_scale"))}
    for name in [name for name in table if name.endswith(_SCALE)]:
        weight = name.removesuffix(_SCALE) + ".weight"
        if weight not in table or table[weight].dtype not in _TYPES or len(table[weight].shape) != 2:
            raise UserError(f'the checkpoint has "{name}" without 8-bit floats in "{weight}"; download it again')
        found[weight] = _scaled(weight, table[weight], table[name], section.get("weight_block_size"))
    return {name: value for name, value in config.items() if name != "quantization_config"}, found


def _scaled(name: str, leaf: Leaf, scale: Leaf, block: Any) -> Leaf:
    sizes = tuple(block) if isinstance(block, list) and block else leaf.shape
    if len(sizes) != 2 or not all(type(step) is int and step > 0 for step in sizes):
        raise UserError(f"weight_block_size={block!r} in the configuration is not two whole numbers; download it again")
    grid = tuple(-(-size // step) for size, step in zip(leaf.shape, sizes, strict=True))
    if scale.shape != grid and (block or scale.shape not in ((), (1,))):
        raise UserError(f'the scales of the checkpoint\'s tensor "{name}" are {scale.shape}, and its blocks {grid}')

    def read(index: Index) -> np.ndarray:
        values = leaf.read(index).astype(np.float32)
        scales = scale.all().astype(np.float32).reshape(grid)
        rows, columns = (
            np.arange(*part.indices(size)) // step
            for part, size, step in zip(index, leaf.shape, sizes, strict=True)
        )  # fmt: skip
        return values * scales[rows][:, columns]

    return Leaf(leaf.shape, np.dtype(np.float32), read)
