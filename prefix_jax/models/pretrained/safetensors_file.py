"""The safetensors format: memory-mapped for reading, written aligned so that the CPU backend can alias the file.

Format: https://github.com/huggingface/safetensors#format: eight bytes (the length of the header, little-endian), a JSON
header `{name: {dtype, shape, data_offsets}, "__metadata__": {str: str}}`, then the tensors without gaps, row-major.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from prefix_jax import checksums
from prefix_jax.cache import disk_errors
from prefix_jax.disk import from_json, replacing
from prefix_jax.errors import UserError
from prefix_jax.models.leaves import Leaf, from_array
from prefix_jax.models.pretrained import causes

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# Dtypes that only occur in parts of quantised weights.
_PACKED = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "C64")
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
# XLA's CPU backend aliases a host array that starts on such a boundary.
_ALIGNMENT = 64
# Metadata key of the checksum of the whole file, computed with the checksum itself replaced by zeros.
_CHECKSUM = "checksum"
_UNSET = "0" * checksums.LENGTH


class Damaged(UserError):
    """An invalid safetensors file, with the reason."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} is not a whole safetensors file ({reason}); copy or download it again")
        self.reason = reason


def read(path: Path, checksum: bool = False) -> tuple[dict[str, Leaf], dict[str, str]]:
    """Returns the file's tensors as leaves over a memory map, and its metadata.

    Args:
      checksum: whether to read the whole file and verify the checksum stored by `write`.

    Raises:
      UserError: the file is absent.
      Damaged: the file is truncated, not a safetensors file, or fails its checksum.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; download the checkpoint again, or name another directory")
    size = path.stat().st_size
    start, header = _header(path, size)
    metadata = header.pop("__metadata__", {})
    mapped = np.memmap(path, np.uint8, "r")
    if checksum and not _as_written(mapped, start, metadata):
        raise _damaged(path, "checksum mismatch")
    table = {}
    for name, entry in header.items():
        if isinstance(entry, dict) and entry.get("dtype") in _PACKED:
            raise UserError(
                f'{path} has "{name}" in the type {entry["dtype"]}, as quantised weights have; use the original '
                "weights, with --config.model.quantisation=int8 where memory is short"
            )
        try:
            begin, end = entry["data_offsets"]
            shape, dtype = tuple(entry["shape"]), np.dtype(_DTYPES[entry["dtype"]])
            if any(type(number) is not int for number in (begin, end, *shape)):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise _damaged(path, f'the entry of "{name}" cannot be read') from None
        if start + end > size:
            raise _damaged(path, f'it is truncated: "{name}" ends at byte {start + end:,} of {size:,}')
        if min((begin, *shape)) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
            raise _damaged(path, f'the size of "{name}" does not match its shape')
        table[name] = from_array(np.asarray(mapped[start + begin : start + end]).view(dtype).reshape(shape))
    return table, metadata


def _header(path: Path, size: int) -> tuple[int, dict[str, Any]]:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8 or not length:
            causes.refuse_other_bytes(path)
            raise _damaged(path, "it is truncated or of another format")
        try:
            header = from_json(file.read(length))
        except ValueError:
            raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return 8 + length, header


def _damaged(path: Path, reason: str) -> UserError:
    return Damaged(path, reason)


def _as_written(mapped: np.ndarray, start: int, metadata: Any) -> bool:
    found = metadata.get(_CHECKSUM) if isinstance(metadata, dict) else None
    if not isinstance(found, str) or len(found) != len(_UNSET):
        return False
    digest = checksums.running()
    digest.update(mapped[:start].tobytes().replace(found.encode(), _UNSET.encode(), 1))
    digest.update(mapped[start:])
    return digest.hexdigest() == found


def write(path: Path, arrays: Mapping[str, Leaf], metadata: Mapping[str, str], checksum: bool = False) -> None:
    """Writes leaves one by one as they are read; the file appears only once it is complete.

    Tensors are laid out by decreasing alignment and the header is padded, so that tensors whose size is a multiple of
    64 bytes start on a 64-byte boundary. With `checksum`, `read` can verify the file.
    """
    names = sorted(arrays, key=lambda n: (_nbytes(arrays[n]) % _ALIGNMENT != 0, -arrays[n].dtype.itemsize, n))
    header = _header_text(arrays, names, {_CHECKSUM: _UNSET, **metadata} if checksum else metadata)
    digest = checksums.running()
    digest.update(header)
    with disk_errors(path), replacing(path) as file:
        file.write(header)
        for name in names:
            data = np.ascontiguousarray(arrays[name].all()).reshape(-1).view(np.uint8).data
            file.write(data)
            if checksum:
                digest.update(data)
        if checksum:
            file.seek(0)
            file.write(header.replace(_UNSET.encode(), digest.hexdigest().encode(), 1))


def _header_text(arrays: Mapping[str, Leaf], names: list[str], metadata: Mapping[str, str]) -> bytes:
    """Returns the header of a file with `names` in this order, preceded by its length."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in names:
        leaf = arrays[name]
        end = offset + _nbytes(leaf)
        header[name] = {"dtype": _NAMES[leaf.dtype], "shape": list(leaf.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _nbytes(leaf: Leaf) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize
