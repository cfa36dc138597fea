"""What is saved after tuning a prefix: `prefix.safetensors` and, beside it, `prefix.json`, in a run's `tuned/` folder.

The tensors are float32, `SITE.key`, `SITE.value` and, where slots have one, `SITE.bias`, as in
`models.prefix.PrefixKV`. The JSON says what model and shape they are for, which layers carry them, and where token
positions start.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import prefix_jax
from prefix_jax.disk import write_all
from prefix_jax.errors import UserError
from prefix_jax.models import FAMILIES
from prefix_jax.models.model_config import ModelConfig, model_config_json
from prefix_jax.models.prefix import SITES, Prefix, PrefixKV, check, length, prefix_of
from prefix_jax.models.pretrained import check_same_model
from prefix_jax.tuning.pair import Pair, described
from prefix_jax.workdir import TUNED

PAIR = Pair("prefix", ("method", "spec", "sites", "layers", "position_offset"))

# What a prefix does not depend on: which tokens begin, end and pad a text, and whose matrix the vocabulary is.
_IMMATERIAL = ("eos_id", "more_eos_ids", "bos_id", "pad_id", "decoder_start_id", "tie_embeddings")


def save(
    folder: str | os.PathLike,
    prefix: Prefix,
    model_identity: Mapping[str, Any],
    model_config: ModelConfig,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a materialised prefix into `folder`, made if absent; what was there is replaced only by whole files.

    Args:
      folder: a run's `tuned/` folder.
      prefix: the keys and values as attention sees them.
      model_identity: of the frozen model (see `models.pretrained.identity`).
      spec: the frozen model's.
      extra: more keys of the JSON, such as `config`.

    Raises:
      UserError: the prefix does not fit the spec, or the disk is full or not writable (what was there stays).
    """
    check(prefix, model_config)
    write_all(folder, encode(prefix, meta_of(prefix, model_identity, model_config, extra)))


def load(
    folder: str | os.PathLike, model_config: ModelConfig | None = None, identity: Mapping[str, Any] | None = None
) -> tuple[Prefix, dict[str, Any]]:
    """Returns the prefix in a run directory or its `tuned/` folder, and what its JSON says.

    Args:
      folder: a run directory, or the folder that holds the files.
      spec: of the model that is to use it; a prefix with another shape is refused.
      identity: of that model; a prefix made for another one is refused.

    Raises:
      UserError: there is no prefix, it is damaged, or it belongs to another model.
    """
    found, meta = read_about(folder)
    prefix = _read_prefix(found, meta)
    if identity is not None:
        _check_identity(found, meta["model"], identity)
    if model_config is not None:
        check_model_config(f"the prefix in {found}", meta, model_config)
        check(prefix, model_config)
    return prefix, meta


def read_about(folder: str | os.PathLike) -> tuple[Path, dict[str, Any]]:
    """Returns the folder that holds a prefix, and what its JSON says, without reading the tensors.

    Raises:
      UserError: there is no prefix, or the JSON is damaged.
    """
    found = PAIR.find(folder)
    if found is None:
        what = f"has no tuned prefix ({TUNED}/{PAIR.about}); has its training finished?"
        raise UserError(f"{folder} {what if Path(folder).is_dir() else 'does not exist; name a run directory'}")
    return found, PAIR.read_about(found)


def meta_of(
    prefix: Prefix,
    model_identity: Mapping[str, Any],
    model_config: ModelConfig | None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns what the JSON says of a prefix."""
    found = {name: site for name in SITES if (site := prefix_of(prefix, name)) is not None}
    layers = {name: site.layers for name, site in found.items()}
    return {
        **described(model_identity, model_config),
        "method": "prefix",
        "length": length(prefix),
        "sites": list(found),
        "layers": {name: None if chosen is None else list(chosen) for name, chosen in layers.items()},
        "position_offset": int(prefix.position_offset),
        **({"infix": True} if prefix.infix else {}),
        **({"distances": True} if prefix.distances else {}),
        **(extra or {}),
    }


def encode(prefix: Prefix, meta: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the contents of the two files, by name."""
    tensors = {}
    for name in SITES:
        site = prefix_of(prefix, name)
        for part in ("key", "value", "bias") if site is not None else ():
            if (leaf := getattr(site, part)) is not None:
                tensors[f"{name}.{part}"] = leaf
    return PAIR.encode(tensors, meta)


def spec_of(meta: Mapping[str, Any]) -> ModelConfig | None:
    """Returns the spec of the model that a prefix was made for, if its JSON says it.

    Raises:
      UserError: the JSON's spec is none that this version knows.
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


def _read_prefix(folder: Path, meta: dict[str, Any]) -> Prefix:
    if not isinstance(meta["layers"], dict):
        raise UserError(f"{folder / PAIR.about} is incomplete or damaged (its layers are not a table); copy it again")
    path, table = folder / PAIR.tensors, PAIR.read_tensors(folder, meta)
    sites = {}
    for name in meta["sites"]:
        parts = {p: table[f"{name}.{p}"] for p in ("key", "value", "bias") if f"{name}.{p}" in table}
        if name not in SITES or "key" not in parts or "value" not in parts:
            raise UserError(
                f'{path} has no keys and values of the site "{name}" that {PAIR.about} names; copy both again'
            )
        sites[name] = _site(path, name, parts, meta["layers"].get(name))
    try:
        # A leaf, and so an array: another value does not compile a new program.
        offset, infix, distances = jnp.int32(meta["position_offset"]), meta.get("infix"), meta.get("distances")
        return Prefix(**sites, position_offset=offset, infix=bool(infix), distances=bool(distances))
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{folder / PAIR.about} has no whole number as position_offset; copy it again") from None


def _site(path: Path, name: str, parts: dict[str, np.ndarray], chosen: list[int] | None) -> PrefixKV:
    shape = parts["key"].shape
    if len(shape) != 4 or parts["value"].shape != shape or parts.get("bias", parts["key"][..., 0]).shape != shape[:3]:
        raise UserError(f"{path} has {name} keys, values and biases whose shapes do not agree; copy it again")
    if chosen is not None and (not all(type(layer) is int for layer in chosen) or len(chosen) != shape[0]):
        raise UserError(f"{path} has {shape[0]} {name} layers, but {PAIR.about} names {chosen}; copy both again")
    arrays = {part: jnp.array(leaf) for part, leaf in parts.items()}
    layers = None if chosen is None else tuple(chosen)
    return PrefixKV(arrays["key"], arrays["value"], arrays.get("bias"), layers=layers)


def _describe(identity: Mapping[str, Any]) -> str:
    name = identity.get("name")
    return f'the model "{name}"' if name else "another model"


def _check_identity(folder: Path, own: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Compares the weights' fingerprints; a prefix from another tool has none, and then its shape decides."""
    if own.get("weights") and other.get("weights"):
        check_same_model(own, other, f"the prefix in {folder}")


def check_model_config(thing: str, meta: Mapping[str, Any], model_config: ModelConfig) -> None:
    """Raises UserError where `thing`, whose JSON is `meta`, was made for a model of other shapes."""
    earlier = spec_of(meta)
    if earlier is None:
        return
    own, here = model_config_json(earlier), model_config_json(model_config)
    for field, value in here.items():
        if field not in _IMMATERIAL and own.get(field) != value:
            raise UserError(
                f"{thing} was made for {_describe(meta['model'])} with {field}={own.get(field)!r}, but "
                f"this model has {field}={value!r}; use the model it was made for, or tune anew for this one"
            )
