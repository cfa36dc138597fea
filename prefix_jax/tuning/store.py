"""Reading and writing of `tuned/`: what is saved after tuning, whatever the method.

A prefix is in `prefix.safetensors` and `prefix.json` (see `prefix_tensors`); what layers read beside the frozen weights
is in `collections.safetensors` and `collections.json`: float32 tensors by their path,
`lora/layers/attention/qkv/query/a`. Each JSON also says what model it is for.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import prefix_jax
from prefix_jax.disk import write_all
from prefix_jax.errors import UserError
from prefix_jax.models import FAMILIES
from prefix_jax.models.model_config import ModelConfig, model_config_json
from prefix_jax.models.prefix import check
from prefix_jax.models.pretrained import check_same_model
from prefix_jax.models.pretrained.loading import flatten, unflatten
from prefix_jax.tuning import prefix_tensors
from prefix_jax.tuning.pair import Description, Pair, described
from prefix_jax.tuning.tuned_state import TunedState
from prefix_jax.workdir import TUNED


class _Collections(Description):
    """`collections.json`."""

    sha256: str


COLLECTIONS = Pair("collections", _Collections)
PREFIX = prefix_tensors.PAIR

# What a tuned state does not depend on: which tokens begin, end and pad a text, and whose matrix the vocabulary is.
_IMMATERIAL = ("eos_id", "more_eos_ids", "bos_id", "pad_id", "decoder_start_id", "tie_embeddings")


def save(
    folder: str | os.PathLike,
    kept: TunedState,
    identity: Mapping[str, Any],
    model_config: ModelConfig,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes what is kept into `folder`, made if absent; what was there is replaced only by whole files.

    Args:
      folder: a run's `tuned/` folder.
      kept: what the method keeps.
      identity: of the frozen model (see `models.pretrained.identity`).
      model_config: the frozen model's.
      extra: more keys of the JSON: `method`, `step`, `config`.

    Raises:
      UserError: the prefix does not fit the model, or the disk is full or not writable (what was there stays).
    """
    if kept.prefix is not None:
        check(kept.prefix, model_config)
    write_all(folder, encode(kept, identity, model_config, extra or {}))


def encode(
    kept: TunedState, identity: Mapping[str, Any], model_config: ModelConfig | None, extra: Mapping[str, Any]
) -> dict[str, bytes]:
    """Returns the contents of the files that `save` writes, by name."""
    contents: dict[str, bytes] = {}
    about = described(identity, model_config)
    if kept.prefix is not None:
        own = prefix_tensors.description_of(kept.prefix)
        contents |= PREFIX.encode(prefix_tensors.tensors_of(kept.prefix), {**about, **own, **extra})
    if kept.collections:
        contents |= COLLECTIONS.encode(flatten(kept.collections), {**about, **extra})
    return contents


def find(folder: str | os.PathLike) -> Path | None:
    """Returns the folder with the files: the one given, or its `tuned/`; None if neither has any."""
    return COLLECTIONS.find(folder) or PREFIX.find(folder)


def model_of(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns the identity of the model for which a run directory's `tuned/` was made; empty where nothing says it."""
    for pair in (COLLECTIONS, PREFIX):
        if (found := pair.find(folder)) is not None:
            try:
                return pair.read_about(found)["model"]
            except UserError:
                continue
    return {}


def model_config_of(meta: Mapping[str, Any]) -> ModelConfig | None:
    """Returns the config of the model that a tuned state was made for, if its JSON says it.

    Raises:
      UserError: this version does not know the family or a field.
    """
    if not meta.get("spec"):
        return None
    try:
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in meta["spec"].items()}
        return FAMILIES[str(fields.pop("family"))].model_config(**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"the prefix's spec is not one that prefix_jax {prefix_jax.__version__} knows ({error}); use the version "
            f"that wrote it, {meta.get('version', 'which it does not name')}"
        ) from None


def read_about(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns what the JSON of a run directory or its `tuned/` folder says, without reading the tensors.

    Raises:
      UserError: there is nothing, or it is damaged.
    """
    return _read_about(folder)[2]


def load(
    folder: str | os.PathLike, model_config: ModelConfig | None = None, identity: Mapping[str, Any] | None = None
) -> tuple[TunedState, dict[str, Any]]:
    """Returns what is kept in a run directory or its `tuned/` folder, and what its JSON says.

    `sha256` is of all its tensors.

    Args:
      folder: a run directory, or the folder that holds the files.
      model_config: of the model that is to use it; a tuned state with other shapes is rejected.
      identity: of that model; a tuned state of other weights is rejected.

    Raises:
      UserError: there is nothing, it is damaged, or it belongs to another model.
    """
    pair, found, meta = _read_about(folder)
    if pair is PREFIX:
        _check_model(f"the prefix in {found}", meta, model_config, identity)
        return TunedState(_prefix(found, meta, model_config)), meta
    _check_model(f"what is in {found}", meta, model_config, identity)
    arrays = {path: jnp.array(leaf) for path, leaf in COLLECTIONS.read_tensors(found, meta).items()}
    prefix = None
    if (found / PREFIX.about).is_file():
        about = PREFIX.read_about(found)
        if about.get("step") != meta.get("step"):
            raise UserError(f"{found} holds a prefix and collections of different steps; copy the run's again")
        _check_model(f"the prefix in {found}", about, model_config, identity)
        prefix = _prefix(found, about, model_config)
        meta["sha256"] = hashlib.sha256(f"{meta['sha256']}{about.get('sha256')}".encode()).hexdigest()
    return TunedState(prefix, unflatten(arrays)), meta


def _read_about(folder: str | os.PathLike) -> tuple[Pair, Path, dict[str, Any]]:
    """Returns the pair that describes the folder, where it is, and what its JSON says."""
    for pair in (COLLECTIONS, PREFIX):
        if (found := pair.find(folder)) is not None:
            return pair, found, pair.read_about(found)
    what = f"has no tuned prefix ({TUNED}/{PREFIX.about}); has its training finished?"
    raise UserError(f"{folder} {what if Path(folder).is_dir() else 'does not exist; name a run directory'}")


def _prefix(found: Path, meta: Mapping[str, Any], model_config: ModelConfig | None) -> Any:
    prefix = prefix_tensors.read(found, meta)
    if model_config is not None:
        check(prefix, model_config)
    return prefix


def _check_model(
    thing: str, meta: Mapping[str, Any], model_config: ModelConfig | None, identity: Mapping[str, Any] | None
) -> None:
    """Raises UserError where `thing`, whose JSON is `meta`, was made for other weights or a model of other shapes."""
    own = meta["model"]
    if identity is not None and own.get("weights") and identity.get("weights"):
        check_same_model(own, identity, thing)
    earlier = None if model_config is None else model_config_of(meta)
    if model_config is None or earlier is None:
        return
    before, here = model_config_json(earlier), model_config_json(model_config)
    name = f'the model "{own["name"]}"' if own.get("name") else "another model"
    for field, value in here.items():
        if field not in _IMMATERIAL and before.get(field) != value:
            raise UserError(
                f"{thing} was made for {name} with {field}={before.get(field)!r}, but this model has "
                f"{field}={value!r}; use the model it was made for, or tune anew for this one"
            )
