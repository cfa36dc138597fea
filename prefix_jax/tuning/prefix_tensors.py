"""A prefix as named tensors and a description, and back: the contents of `prefix.safetensors` and `prefix.json`.

The tensors are float32, `SITE.key`, `SITE.value` and, where slots have one, `SITE.bias`, as in
`models.prefix.PrefixKV`. The description says which layers carry them, and where token positions start.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

import jax.numpy as jnp
import numpy as np

from prefix_jax.errors import UserError
from prefix_jax.models.prefix import SITES, Prefix, PrefixKV, length, prefix_of
from prefix_jax.schema import Size, within
from prefix_jax.tuning.pair import Description, Pair


class _Description(Description):
    """`prefix.json`."""

    method: str
    spec: dict[str, Any] | None
    sites: list[str]
    layers: dict[str, list[Size] | None]
    position_offset: within(0, 2**31 - 1)
    infix: NotRequired[bool]
    distances: NotRequired[bool]


PAIR = Pair("prefix", _Description)


def tensors_of(prefix: Prefix) -> dict[str, Any]:
    """Returns the arrays of a prefix by name."""
    tensors = {}
    for name in SITES:
        site = prefix_of(prefix, name)
        for part in ("key", "value", "bias") if site is not None else ():
            if (leaf := getattr(site, part)) is not None:
                tensors[f"{name}.{part}"] = leaf
    return tensors


def description_of(prefix: Prefix) -> dict[str, Any]:
    """Returns what `prefix.json` says of the prefix itself."""
    found = {name: site for name in SITES if (site := prefix_of(prefix, name)) is not None}
    layers = {name: site.layers for name, site in found.items()}
    return {
        "method": "prefix",
        "length": length(prefix),
        "sites": list(found),
        "layers": {name: None if chosen is None else list(chosen) for name, chosen in layers.items()},
        "position_offset": int(prefix.position_offset),
        **({"infix": True} if prefix.infix else {}),
        **({"distances": True} if prefix.distances else {}),
    }


def read(folder: Path, meta: Mapping[str, Any]) -> Prefix:
    """Returns the prefix in a folder, given the contents of its `prefix.json`.

    Raises:
      UserError: the two files are damaged or do not belong together.
    """
    path, table = folder / PAIR.tensors, PAIR.read_tensors(folder, meta)
    sites = {}
    for name in meta["sites"]:
        parts = {p: table[f"{name}.{p}"] for p in ("key", "value", "bias") if f"{name}.{p}" in table}
        if name not in SITES or "key" not in parts or "value" not in parts:
            raise UserError(
                f'{path} has no keys and values of the site "{name}" that {PAIR.about} names; copy both again'
            )
        sites[name] = _site(path, name, parts, meta["layers"].get(name))
    # A leaf, and so an array: another value does not compile a new program.
    offset, infix, distances = jnp.int32(meta["position_offset"]), meta.get("infix"), meta.get("distances")
    return Prefix(**sites, position_offset=offset, infix=bool(infix), distances=bool(distances))


def _site(path: Path, name: str, parts: dict[str, np.ndarray], chosen: list[int] | None) -> PrefixKV:
    shape = parts["key"].shape
    if len(shape) != 4 or parts["value"].shape != shape or parts.get("bias", parts["key"][..., 0]).shape != shape[:3]:
        raise UserError(f"{path} has {name} keys, values and biases whose shapes do not agree; copy it again")
    if chosen is not None and len(chosen) != shape[0]:
        raise UserError(f"{path} has {shape[0]} {name} layers, but {PAIR.about} names {chosen}; copy both again")
    arrays = {part: jnp.array(leaf) for part, leaf in parts.items()}
    layers = None if chosen is None else tuple(chosen)
    return PrefixKV(arrays["key"], arrays["value"], arrays.get("bias"), layers=layers)
