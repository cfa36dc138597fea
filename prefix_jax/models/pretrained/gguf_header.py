"""The header of a GGUF file, walked once: every length and offset in it is inside the file.

gguf-py reads lists as long as a file says. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from pathlib import Path

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
# Bytes of the types of values by their number; of texts and lists, the fewest.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, _STRING: 8, _ARRAY: 12, 10: 8, 11: 8, 12: 8}
_DEEPEST_LIST = 4
_MOST_AXES = 8


def check(path: Path) -> None:
    """Raises ValueError where a header is truncated, or counts more than the file holds.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if file.seek(0, 2) < 24:
            raise ValueError("it is truncated")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(data).header()


class _Walk:
    """A place in a file, and the file's byte order."""

    def __init__(self, data: mmap.mmap):
        self.data, self.size, self.at = data, len(data), 0
        if data[:4] != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        # A version has its low half set: where it is the high one, the file is in the other byte order.
        self.order = "<" if struct.unpack_from("<I", data, 4)[0] & 0xFFFF else ">"

    def header(self) -> None:
        self.at = 8
        tensors, values = self.number("Q"), self.number("Q")
        self.room(values, 8 + 4 + 1, "values")
        for _ in range(values):
            self.text()
            self.value(self.number("I"), 0)
        self.room(tensors, 8 + 4 + 4 + 8, "tensors")
        for _ in range(tensors):
            self.tensor()

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        self.room(1, size, "numbers")
        (found,) = struct.unpack_from(self.order + form, self.data, self.at)
        self.at += size
        return found

    def room(self, count: int, size: int, what: str) -> None:
        """Raises ValueError where so many things of at least this size do not fit into the rest of the file."""
        if count * size > self.size - self.at:
            raise ValueError(f"it ends before {count:,} {what} at byte {self.at:,}")

    def text(self) -> None:
        length = self.number("Q")
        self.room(length, 1, "bytes of a text")
        self.at += length

    def value(self, kind: int, depth: int) -> None:
        if kind not in _SIZES or depth > _DEEPEST_LIST:
            raise ValueError(f"it has a value of the unknown type {kind} before byte {self.at:,}")
        if kind == _STRING:
            self.text()
        elif kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            self.room(count, _SIZES.get(inner, 1), "values of a list")
            if inner in (_STRING, _ARRAY) or inner not in _SIZES:
                for _ in range(count):
                    self.value(inner, depth + 1)
            else:
                self.at += count * _SIZES[inner]
        else:
            self.room(1, _SIZES[kind], "values")
            self.at += _SIZES[kind]

    def tensor(self) -> None:
        self.text()
        axes = self.number("I")
        if axes > _MOST_AXES:
            raise ValueError(f"it has a tensor with {axes} axes before byte {self.at:,}")
        shape = [self.number("Q") for _ in range(axes)]
        self.number("I")  # the type, which gguf-py knows
        offset = self.number("Q")
        # The smallest types have less than 2 bits a number.
        if offset > self.size or math.prod(shape) > 8 * self.size:
            raise ValueError(f"it has a tensor of {math.prod(shape):,} numbers at {offset:,}, beyond its end")
