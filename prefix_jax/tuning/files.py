"""What is saved after tuning a prefix: `prefix.safetensors` and, beside it, `prefix.json`, in a run's `tuned/` folder.

The tensors are float32, `SITE.key`, `SITE.value` and, where slots have one, `SITE.bias`, as in `models.prefix.Site`.
The JSON says what model and shape they are for, which layers carry them, and where token positions start.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as safetensors_bytes

import prefix_jax
from prefix_jax.disk import write_all
from prefix_jax.errors import UserError
from prefix_jax.models.prefix import SITES, Prefix, Site, check, length, site_of
from prefix_jax.models.pretrained import check_same_model, safetensors_file
from prefix_jax.models.specs import BartSpec, GPT2Spec, LlamaSpec, Spec, T5Spec, spec_dict

FORMAT = 1
TENSORS = "prefix.safetensors"
META = "prefix.json"

_FAMILIES = {"gpt2": GPT2Spec, "llama": LlamaSpec, "t5": T5Spec, "bart": BartSpec}
# What a prefix does not depend on: which tokens begin, end and pad a text.
_IMMATERIAL = ("eos_id", "bos_id", "pad_id", "decoder_start_id")


def save(
    folder: str | os.PathLike,
    prefix: Prefix,
    model_identity: Mapping[str, Any],
    spec: Spec,
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
    check(prefix, spec)
    write_all(folder, encode(prefix, meta_of(prefix, model_identity, spec, extra)))


def load(
    folder: str | os.PathLike, spec: Spec | None = None, identity: Mapping[str, Any] | None = None
) -> tuple[Prefix, dict[str, Any]]:
    """Returns the prefix in a run directory or its `tuned/` folder, and what its JSON says.

    Args:
      folder: a run directory, or the folder that holds the files.
      spec: of the model that is to use it; a prefix with another shape is refused.
      identity: of that model; a prefix made for another one is refused.

    Raises:
      UserError: there is no prefix, it is damaged, or it belongs to another model.
    """
    folder = find(folder)
    meta = _read_meta(folder / META)
    prefix = _read_prefix(folder, meta)
    if identity is not None:
        _check_identity(folder, meta["model"], identity)
    if spec is not None:
        _check_spec(folder, meta, spec)
        check(prefix, spec)
    return prefix, meta


def is_prefix(folder: str | os.PathLike) -> bool:
    """Whether `folder`, or its `tuned/`, holds a prefix as this module writes it."""
    return any((Path(folder, part) / META).is_file() for part in (".", "tuned"))


def find(folder: str | os.PathLike) -> Path:
    """Returns the folder that holds the files: the one given, or its `tuned/`.

    Raises:
      UserError: neither does.
    """
    for part in (Path(folder), Path(folder, "tuned")):
        if (part / META).is_file():
            return part
    what = "has no tuned prefix (tuned/prefix.json); has its training finished?"
    raise UserError(f"{folder} {what if Path(folder).is_dir() else 'does not exist; name a run directory'}")


def meta_of(
    prefix: Prefix, model_identity: Mapping[str, Any], spec: Spec | None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns what the JSON says of a prefix."""
    found = {name: site for name in SITES if (site := site_of(prefix, name)) is not None}
    layers = {name: site.layers for name, site in found.items()}
    return {
        "format": FORMAT,
        "method": "prefix",
        "model": dict(model_identity),
        "spec": None if spec is None else spec_dict(spec),
        "length": length(prefix),
        "sites": list(found),
        "layers": {name: None if chosen is None else list(chosen) for name, chosen in layers.items()},
        "position_offset": int(prefix.position_offset),
        **({"infix": True} if prefix.infix else {}),
        "library": "prefix_jax",
        "version": getattr(prefix_jax, "__version__", "unknown"),
        **(extra or {}),
    }


def encode(prefix: Prefix, meta: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the contents of the two files, by name; the JSON holds the hash of the other."""
    tensors = {}
    for name in SITES:
        site = site_of(prefix, name)
        for part in ("key", "value", "bias") if site is not None else ():
            if (leaf := getattr(site, part)) is not None:
                tensors[f"{name}.{part}"] = np.ascontiguousarray(leaf, np.float32)
    content = safetensors_bytes(tensors, {"format": "pt"})
    return {TENSORS: content, META: json_bytes({**meta, "sha256": hashlib.sha256(content).hexdigest()})}


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, default=str) + "\n").encode()


def spec_of(meta: Mapping[str, Any]) -> Spec | None:
    """Returns the spec of the model that a prefix was made for, if its JSON says it.

    Raises:
      UserError: the JSON's spec is none that this version knows.
    """
    if not meta.get("spec"):
        return None
    try:
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in meta["spec"].items()}
        return _FAMILIES[str(fields.pop("family"))](**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"the prefix's spec is not one that prefix_jax {prefix_jax.__version__} knows ({error}); use the version "
            f"that wrote it, {meta.get('version', 'which it does not name')}"
        ) from None


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); copy it again from the run") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or "method" not in meta:
        raise UserError(f'{path} is not a prefix of format {FORMAT} (its "format" and "method" must say so)')
    missing = [name for name in ("model", "spec", "sites", "layers", "position_offset") if name not in meta]
    if missing or not isinstance(meta["model"], dict) or not isinstance(meta["layers"], dict):
        raise UserError(f"{path} is incomplete or damaged{f' (no {missing[0]})' if missing else ''}; copy it again")
    return meta


def _read_prefix(folder: Path, meta: dict[str, Any]) -> Prefix:
    path = folder / TENSORS
    if not path.is_file():
        raise UserError(f"{path} is missing beside {META}; copy it from the run")
    table, _ = safetensors_file.read(path)
    if meta.get("sha256") and hashlib.sha256(path.read_bytes()).hexdigest() != meta["sha256"]:
        raise UserError(
            f"{path} is not the one that {META} beside it describes (saving was cut short, or one was copied without "
            "the other); run the training command again, which writes both, or copy both again"
        )
    sites = {}
    for name in meta["sites"]:
        parts = {p: table[f"{name}.{p}"].all() for p in ("key", "value", "bias") if f"{name}.{p}" in table}
        if name not in SITES or "key" not in parts or "value" not in parts:
            raise UserError(f'{path} has no keys and values of the site "{name}" that {META} names; copy both again')
        sites[name] = _site(path, name, parts, meta["layers"].get(name))
    try:
        # A leaf, and so an array: a change of it is no new program.
        return Prefix(**sites, position_offset=jnp.int32(meta["position_offset"]), infix=bool(meta.get("infix", False)))
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{folder / META} has no whole number as position_offset; copy it again") from None


def _site(path: Path, name: str, parts: dict[str, np.ndarray], chosen: list[int] | None) -> Site:
    shape = parts["key"].shape
    if len(shape) != 4 or parts["value"].shape != shape or parts.get("bias", parts["key"][..., 0]).shape != shape[:3]:
        raise UserError(f"{path} has {name} keys, values and biases whose shapes do not agree; copy it again")
    if chosen is not None and (not all(type(layer) is int for layer in chosen) or len(chosen) != shape[0]):
        raise UserError(f"{path} has {shape[0]} {name} layers, but {META} names {chosen}; copy both again")
    # A copy: the file may be replaced while the prefix is in use.
    arrays = {part: jnp.array(np.array(leaf, np.float32)) for part, leaf in parts.items()}
    layers = None if chosen is None else tuple(chosen)
    return Site(arrays["key"], arrays["value"], arrays.get("bias"), layers=layers)


def _describe(identity: Mapping[str, Any]) -> str:
    name = identity.get("name")
    return f'the model "{name}"' if name else "another model"


def _check_identity(folder: Path, own: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Compares the weights' fingerprints; a prefix from another tool has none, and then its shape decides."""
    if own.get("weights") and other.get("weights"):
        check_same_model(own, other, f"the prefix in {folder}")


def _check_spec(folder: Path, meta: Mapping[str, Any], spec: Spec) -> None:
    own, here = meta["spec"], json.loads(json.dumps(spec_dict(spec)))
    for field, value in here.items() if own else ():
        if field not in _IMMATERIAL and own.get(field) != value:
            raise UserError(
                f"the prefix in {folder} was made for {_describe(meta['model'])} with {field}={own.get(field)!r}, but "
                f"this model has {field}={value!r}; use the model it was made for, or tune a prefix for this one"
            )
