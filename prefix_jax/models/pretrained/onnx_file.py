"""Weights of an ONNX graph with dynamic int8 quantisation (onnxruntime's `quantize_dynamic`).

A quantised weight consists of the initialisers `X_quantized`, `X_scale` and `X_zero_point`. Weights of `Gather` keep
the parameter's name; those of `MatMulInteger` are named `onnx::MatMul_123`, and the node's name gives the path. Matrix
products store weights as [in, out], torch's Linear as [out, in].
"""

from collections.abc import Container, Iterator
from typing import Any

import numpy as np

from prefix_jax import extras
from prefix_jax.errors import UserError, first_line
from prefix_jax.models.leaves import Leaf, affine, from_array, transpose

_QUANTIZED = "_quantized"


def read(data: bytes, name: str) -> dict[str, Leaf]:
    """Returns the graph's weights as float32 leaves by parameter path (`enc.block.0.layer.0.SelfAttention.q.weight`).

    Args:
      data: contents of the file.
      name: name for error messages.

    Raises:
      UserError: the bytes are not an ONNX model, or lack the scale or the numbers of a weight.
    """
    extras.require("onnx", f"{name}, which is an ONNX file,")
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.numpy_helper import to_array

    try:
        graph = onnx.load_from_string(data).graph
    except DecodeError as error:
        raise UserError(f"{name} is not an ONNX model ({error}); download it again") from None
    arrays = {item.name: item for item in graph.initializer}

    def leaf(weight: str) -> Leaf:
        if not weight.endswith(_QUANTIZED):
            return from_array(to_array(arrays[weight]))
        stem = weight.removesuffix(_QUANTIZED)
        scale, zero = to_array(arrays[f"{stem}_scale"]), to_array(arrays[f"{stem}_zero_point"])
        return affine(from_array(to_array(arrays[weight])), np.asarray(scale), np.asarray(zero))

    try:
        table = {n: leaf(n) for n in arrays if n.endswith((".weight", f".weight{_QUANTIZED}"))}
        for path, weight in _products(graph, arrays):
            table[path] = transpose(leaf(weight), (1, 0))
    # Absent parts, types and sizes that onnx does not know, and numbers that do not fill a shape.
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        raise UserError(f"{name} is a damaged ONNX model ({first_line(error)}); download it again") from None
    return {path.removesuffix(_QUANTIZED): value for path, value in table.items()}


def _products(graph: Any, arrays: Container[str]) -> Iterator[tuple[str, str]]:
    """Yields (parameter path, initialiser) of each matrix product with a constant second factor."""
    for node in graph.node:
        if node.op_type in ("MatMul", "MatMulInteger") and node.input[1] in arrays:
            path = node.name.removesuffix("_quant").removesuffix("/MatMul").strip("/").replace("/", ".")
            yield f"{path}.weight", node.input[1]
