"""Reader of `pytorch_model.bin`, the zip format of `torch.save`, without torch and without running pickled code.

The archive holds `data.pkl`, a pickle of rebuild calls over storages, and one uncompressed member per storage. Only the
few globals that a state dict needs are allowed; any other is rejected before lookup.
"""

import collections
import io
import math
import pickle
import pickletools
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from prefix_jax.errors import UserError, first_line
from prefix_jax.models.leaves import Leaf, from_array
from prefix_jax.models.pretrained import causes

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Dtypes without a storage class in torch: the tensor names the dtype, and its storage is bytes.
_TYPES = {
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
}
# Names that identify the training loop behind a checkpoint, and its keys for the model's tensors.
_LOOPS = {
    b"pytorch-lightning_version": "Lightning",
    b"ds_config": "DeepSpeed",
    b"optimizer_state": "a training loop",
    b"param_groups": "an optimizer",
}
_SECTIONS = ("state_dict", "model_state_dict", "model", "module")
# What damaged archives and pickles raise.
_DAMAGE = (
    pickle.UnpicklingError, KeyError, ValueError, TypeError, EOFError, IndexError, AttributeError, OverflowError,
    NotImplementedError, RuntimeError, OSError, RecursionError, zlib.error,
)  # fmt: skip
# Opcodes that make the unpickler's memo as long as their argument says.
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
# Numbers that a tensor may have beyond those of its storage, as where it was expanded.
_EXPANDED = 1 << 24


def read(path: Path) -> dict[str, Leaf]:
    """Returns the tensors of a state dict saved by `torch.save` as leaves over a memory map.

    Raises:
      UserError: the file is absent, truncated, older than torch 1.6, or holds anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; download the checkpoint again, or name another directory")
    try:
        with zipfile.ZipFile(path) as archive:
            state = _tensors(path, _Reader(path, archive).load())
    except zipfile.BadZipFile:
        causes.refuse_other_bytes(path)
        raise UserError(
            f"{path} is truncated or older than torch 1.6; download it again, or save it as safetensors"
        ) from None
    except _DAMAGE as error:
        raise UserError(f"{path} is not a state dict ({first_line(error)}); save it as safetensors") from None
    return {str(name): from_array(value) for name, value in state.items()}


def _tensors(path: Path, state: Any) -> dict[Any, np.ndarray]:
    """Returns the tensors of a state dict, or of the state dict in a training loop's checkpoint."""
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict; save it as safetensors")
    if found := {name: value for name, value in state.items() if isinstance(value, np.ndarray)}:
        return found
    for name in _SECTIONS:
        if isinstance(inner := state.get(name), dict):
            print(f'{path} is a checkpoint of a training loop; its "{name}" is read.', file=sys.stderr)
            return _tensors(path, inner)
    what = f"the entries {', '.join(map(str, list(state)[:3]))}" if state else "nothing"
    raise UserError(f"{path} holds {what} and no tensors of a model; save the model alone, with save_pretrained()")


class _Storage:
    """Stands in for a storage class; `__slots__` prevents a pickle from setting attributes."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Any):
        object.__setattr__(self, "dtype", np.dtype(dtype))

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("it sets attributes")


class _RebuildTensor:
    """Stands in for `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
        if not isinstance(storage, np.ndarray):
            raise pickle.UnpicklingError("a tensor has no storage")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in numbers):
            raise pickle.UnpicklingError("a tensor has an impossible shape")
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset - 1
        if last >= storage.size or math.prod(size) > storage.size + _EXPANDED:
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        strides = tuple(s * storage.itemsize for s in stride)
        # As bytes, because numpy's buffer protocol does not support all of these dtypes.
        plain = storage.view(np.dtype((np.void, storage.itemsize)))
        return np.lib.stride_tricks.as_strided(plain[offset:], size, strides, writeable=False).view(storage.dtype)


class _RebuildTyped:
    """Stands in for `torch._utils._rebuild_tensor_v3`, whose dtype follows `_rebuild_tensor_v2`'s arguments."""

    __slots__ = ()

    def __call__(
        self, storage: Any, offset: int, size: tuple, stride: tuple, grad: Any, hooks: Any, kind: Any, *_: Any
    ) -> np.ndarray:
        if not isinstance(storage, np.ndarray) or not isinstance(kind, _Storage):
            raise pickle.UnpicklingError("a tensor has no storage or type")
        return _RebuildTensor()(storage.view(kind.dtype), offset, size, stride)


class _RebuildParameter:
    """Stands in for `torch._utils._rebuild_parameter(data, requires_grad, hooks)`."""

    __slots__ = ()

    def __call__(self, data: np.ndarray, *_: Any) -> np.ndarray:
        return data


_GLOBALS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTyped(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch.storage", "UntypedStorage"): _Storage(np.uint8),
    **{("torch", name): _Storage(dtype) for name, dtype in _TYPES.items()},
    **{("torch", name): _Storage(dtype) for name, dtype in _STORAGES.items()},
}


def _check_memo(program: bytes) -> None:
    """Raises UnpicklingError where a pickle has a memo with more places than it has operations."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        if opcode.name in _MEMO and isinstance(argument, int) and argument > count:
            raise pickle.UnpicklingError("its memo is longer than it")


class _Reader(pickle.Unpickler):
    def __init__(self, path: Path, archive: zipfile.ZipFile):
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("it has no data.pkl")
        self._root = pickles[0].removesuffix("data.pkl")
        self._archive = archive
        self._mapped = np.asarray(np.memmap(path, np.uint8, "r"))
        order = f"{self._root}byteorder"
        if order in archive.namelist() and self._member(order).strip() != b"little":
            raise pickle.UnpicklingError("it is big-endian")
        self._program = self._member(pickles[0])
        _check_memo(self._program)
        super().__init__(io.BytesIO(self._program))

    def _member(self, name: str) -> bytes:
        """Returns a member, which may not be larger than the file."""
        if self._archive.getinfo(name).file_size > self._mapped.size:
            raise pickle.UnpicklingError(f"{name} is larger than the file")
        return self._archive.read(name)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            if maker := next((maker for sign, maker in _LOOPS.items() if sign in self._program), ""):
                raise pickle.UnpicklingError(
                    f"it is a checkpoint of {maker}, which calls for {module}.{name}, and only tensors are read; save "
                    "the model alone"
                )
            raise pickle.UnpicklingError(f"it calls for {module}.{name}, and only tensors are read")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("it refers to something that is not a storage")
        info = self._archive.getinfo(f"{self._root}data/{key}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size < count * storage.dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key} is compressed or too small")
        # The local header's name and extra field lengths determine the start of the data.
        head = self._mapped[info.header_offset : info.header_offset + 30]
        name_length, extra_length = head[26:30].view("<u2").tolist()
        start = info.header_offset + 30 + name_length + extra_length
        part = self._mapped[start : start + count * storage.dtype.itemsize]
        return part.view(storage.dtype)
