"""What is saved after tuning, whatever the method, in a run's `tuned/` folder.

A prefix is in `prefix.safetensors` and `prefix.json` (see `files`); what layers read beside the frozen weights is in
`collections.safetensors` and `collections.json`: float32 tensors by their path, `lora/layers/attention/qkv/query/a`.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from prefix_jax.disk import write_all
from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained import check_same_model
from prefix_jax.models.pretrained.loading import flatten, unflatten
from prefix_jax.tuning import files
from prefix_jax.tuning.pair import Pair, described
from prefix_jax.tuning.tuned_state import TunedState

PAIR = Pair("collections", ("sha256",))


def save(
    folder: str | os.PathLike,
    kept: TunedState,
    identity: Mapping[str, Any],
    model_config: ModelConfig,
    extra: Mapping[str, Any],
) -> None:
    """Writes what is kept into `folder`, made if absent; what was there is replaced only by whole files.

    Args:
      folder: a run's `tuned/` folder.
      kept: what the method keeps.
      identity: of the frozen model (see `models.pretrained.identity`).
      spec: the frozen model's.
      extra: more keys of the JSON: `method`, `step`, `config`.

    Raises:
      UserError: the prefix does not fit the spec, or the disk is full or not writable (what was there stays).
    """
    write_all(folder, encode(kept, identity, model_config, extra))


def encode(
    kept: TunedState, identity: Mapping[str, Any], model_config: ModelConfig, extra: Mapping[str, Any]
) -> dict[str, bytes]:
    """Returns the contents of the files that `save` writes, by name."""
    contents: dict[str, bytes] = {}
    if kept.prefix is not None:
        contents |= files.encode(kept.prefix, files.meta_of(kept.prefix, identity, model_config, extra))
    if kept.collections:
        contents |= PAIR.encode(flatten(kept.collections), {**described(identity, model_config), **extra})
    return contents


def model_of(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns the identity of the model for which a run directory's `tuned/` was made; empty where nothing says it."""
    for pair in (PAIR, files.PAIR):
        if (found := pair.find(folder)) is not None:
            try:
                return pair.read_about(found)["model"]
            except UserError:
                continue
    return {}


def read_about(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns what the JSON of a run directory or its `tuned/` folder says, without reading the tensors.

    Raises:
      UserError: there is nothing, or it is damaged.
    """
    found = PAIR.find(folder)
    return files.read_about(folder)[1] if found is None else PAIR.read_about(found)


def load(
    folder: str | os.PathLike, model_config: ModelConfig | None = None, identity: Mapping[str, Any] | None = None
) -> tuple[TunedState, dict[str, Any]]:
    """Returns what is kept in a run directory or its `tuned/` folder, and what its JSON says.

    `sha256` is of all its tensors. With the spec and the identity of the model that is to use it, what was made for
    another one is refused.

    Raises:
      UserError: there is nothing, it is damaged, or it belongs to another model.
    """
    found = PAIR.find(folder)
    if found is None:
        prefix, meta = files.load(folder, model_config, identity)
        return TunedState(prefix), meta
    meta = PAIR.read_about(found)
    if identity is not None and meta["model"].get("weights"):
        check_same_model(meta["model"], identity, f"what is in {found}")
    elif model_config is not None:
        files.check_model_config(f"what is in {found}", meta, model_config)  # from another tool, which notes no weights
    arrays = {path: jnp.array(leaf) for path, leaf in PAIR.read_tensors(found, meta).items()}
    prefix = None
    if (found / files.PAIR.about).is_file():
        prefix, about = files.load(found, model_config, identity)
        if about.get("step") != meta.get("step"):
            raise UserError(f"{found} holds a prefix and collections of different steps; copy the run's again")
        meta["sha256"] = hashlib.sha256(f"{meta['sha256']}{about.get('sha256')}".encode()).hexdigest()
    return TunedState(prefix, unflatten(arrays)), meta
