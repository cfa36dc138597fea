"""Writes a state dict of float32 arrays as `torch.save` does (its zip form), without torch.

The archive holds `data.pkl`, a protocol 2 pickle of rebuild calls, and one uncompressed member for each storage: the
inverse of `models.pretrained.torch_file`.
"""

import io
import math
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def torch_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns the contents of a file that `torch.load(..., weights_only=True)` reads."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickle({name: a.shape for name, a in arrays.items()}))
        archive.writestr("archive/byteorder", "little")
        for index, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{index}", np.ascontiguousarray(array, "<f4").tobytes())
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def _pickle(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    parts = [b"\x80\x02", _ORDERED_DICT, b"("]
    for index, (name, shape) in enumerate(shapes.items()):
        storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(index)) + _text("cpu")
        storage += _int(math.prod(shape)) + b"tQ"
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        call = b"(" + storage + _int(0) + _ints(shape) + _ints(strides) + b"\x89" + _ORDERED_DICT + b"t"
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", call, b"R"]
    return b"".join([*parts, b"u."])


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _ints(values: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
