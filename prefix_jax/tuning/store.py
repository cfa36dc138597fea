"""What is saved after tuning, whatever the method, in a run's `tuned/` folder.

A prefix is in `prefix.safetensors` and `prefix.json` (see `files`); what layers read beside the frozen weights is in
`collections.safetensors` and `collections.json`: float32 tensors by their path, `lora/layers/attention/qkv/query/a`.
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
from prefix_jax.models.pretrained import check_same_model, safetensors_file
from prefix_jax.models.pretrained.loading import flatten, unflatten
from prefix_jax.models.specs import Spec, spec_dict
from prefix_jax.tuning import files
from prefix_jax.tuning.kept import Kept

FORMAT = 1
TENSORS = "collections.safetensors"
META = "collections.json"


def save(
    folder: str | os.PathLike, kept: Kept, identity: Mapping[str, Any], spec: Spec, extra: Mapping[str, Any]
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
    contents: dict[str, bytes] = {}
    if kept.prefix is not None:
        contents |= files.encode(kept.prefix, files.meta_of(kept.prefix, identity, spec, extra))
    if kept.collections:
        tensors = {path: np.ascontiguousarray(leaf, np.float32) for path, leaf in flatten(kept.collections).items()}
        content = safetensors_bytes(tensors, {"format": "pt"})
        about = {
            "format": FORMAT,
            "model": dict(identity),
            "spec": spec_dict(spec),
            "library": "prefix_jax",
            "version": prefix_jax.__version__,
            **extra,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        contents |= {TENSORS: content, META: files.json_bytes(about)}
    write_all(folder, contents)


def load(
    folder: str | os.PathLike, spec: Spec | None = None, identity: Mapping[str, Any] | None = None
) -> tuple[Kept, dict[str, Any]]:
    """Returns what is kept in a run directory or its `tuned/` folder, and what its JSON says.

    `sha256` is of all its tensors. With the spec and the identity of the model that is to use it, what was made for
    another one is refused.

    Raises:
      UserError: there is nothing, it is damaged, or it belongs to another model.
    """
    found = [part for part in (Path(folder), Path(folder, "tuned")) if (part / META).is_file()]
    if not found:
        prefix, meta = files.load(folder, spec, identity)
        return Kept(prefix), meta
    folder = found[0]
    meta = _read_meta(folder / META)
    if identity is not None:
        check_same_model(meta["model"], identity, f"what is in {folder}")
    kept = Kept(None, _read(folder, meta))
    if (folder / files.META).is_file():
        prefix, about = files.load(folder, spec, identity)
        if about.get("step") != meta.get("step"):
            raise UserError(f"{folder} holds a prefix and collections of different steps; copy the run's again")
        meta["sha256"] = hashlib.sha256(f"{meta['sha256']}{about.get('sha256')}".encode()).hexdigest()
        kept = Kept(prefix, kept.collections)
    return kept, meta


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); copy it again from the run") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or not isinstance(meta.get("model"), dict):
        raise UserError(f"{path} is not of format {FORMAT}, or damaged; copy it again from the run")
    return meta


def _read(folder: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / TENSORS
    if not path.is_file():
        raise UserError(f"{path} is missing beside {META}; copy it from the run")
    table, _ = safetensors_file.read(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != meta.get("sha256"):
        raise UserError(f"{path} is not the one that {META} beside it describes; copy both again from the run")
    # A copy: the file may be replaced while its numbers are in use.
    return unflatten({name: jnp.array(np.array(leaf.all(), np.float32)) for name, leaf in table.items()})
