"""Prefix tuning as adapter-hub's `adapters` saves it: three sites, left-out layers, flat or through an MLP.

As its source has it (methods/prefix_tuning.py, models/*/mixin_*.py): a location holds `[P, 2 L' H D]` in the order of
`layout`, L' the layers that are not left out, H the query heads (the prefix joins after keys are repeated for grouped
queries), D `d_kv` or hidden / H. Decoder layers are counted after the encoder's. Tokens start at position 0.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as safetensors_bytes

from prefix_jax.errors import UserError
from prefix_jax.models import families
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Prefix, PrefixKV, prefix_of
from prefix_jax.schema import Size, within
from prefix_jax.tuning.formats import layout

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
_LOCATIONS = {"encoder": "encoder_prefix", "decoder": "self_prefix", "cross": "cross_prefix"}
_KEY = re.compile(r"(?:.*\.)?prefix_tuning\.prefix_tunings\.(.+)\.(encoder|self|cross)_prefix\.(.+)")


class _Prefix(TypedDict):
    architecture: NotRequired[str | None]
    use_gating: NotRequired[bool | None]
    leave_out: NotRequired[list[Size] | None]
    prefix_length: NotRequired[within(1, 2**31)]


class _Config(TypedDict):
    """What is read of `adapter_config.json`."""

    config: _Prefix
    model_name: NotRequired[str | None]


def is_mine(folder: Path) -> bool:
    if not (folder / CONFIG).is_file():
        return False
    config = layout.read_json(folder / CONFIG)
    return "peft_type" not in config and isinstance(config.get("config"), dict)


def read(folder: Path, model_config: ModelConfig | None) -> tuple[Prefix, dict[str, Any]]:
    """Returns the prefix of an adapter folder, MLP evaluated, and the base model's identity.

    Raises:
      UserError: the adapter is of another kind, gated or damaged, does not fit the spec, or has no spec.
    """
    whole = layout.read_json(folder / CONFIG, _Config)
    config = whole["config"]
    if config.get("architecture") != "prefix_tuning":
        raise UserError(f'{folder} holds an adapter of architecture "{config.get("architecture")}", not a prefix')
    if config.get("use_gating"):
        raise UserError(
            f"{folder} holds a gated prefix, whose gate depends on the input; only fixed prefixes can be converted"
        )
    if "prefix_length" not in config:
        raise UserError(f"{folder / CONFIG} does not say its prefix_length; copy it again")
    if model_config is None:
        raise UserError(f"{folder} does not say the model's heads and layers; name the model with --model")
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in layout.read_tensors(folder, _WEIGHTS).items():
        if match := _KEY.fullmatch(key):
            found.setdefault(match[2], {})[match[3]] = tensor
    sites = {}
    for site, location in _LOCATIONS.items():
        if tensors := found.get(location.removesuffix("_prefix")):
            if site not in model_config.sites:
                raise UserError(f"{folder} has a prefix for the {site} attention, which this model has not")
            layers = _kept(model_config, site, config.get("leave_out") or [])
            sites[site] = _read_site(tensors, model_config, config["prefix_length"], layers)
    if not sites:
        raise UserError(f"{folder} has no tensors of a prefix (prefix_tuning.prefix_tunings...); copy it again")
    return Prefix(**sites, position_offset=0), {"name": whole.get("model_name") or ""}


def encode(
    prefix: Prefix, model_config: ModelConfig | None, identity: Mapping[str, Any], name: str
) -> dict[str, bytes]:
    """Returns the files that `model.load_adapter` loads, the prefix flat.

    Raises:
      UserError: adapters cannot hold such a prefix.
    """
    if model_config is None:
        raise UserError("adapters' files name the model's class, and the base model is not known; name it with --model")
    family = families.of(model_config)
    if family.adapters is None:
        raise UserError(f"prefixes of {family.title} cannot be written for adapters; keep it as prefix_jax")
    layout.refuse_bias(prefix, "adapters")
    if not model_config.is_encoder_decoder and model_config.head_dim * model_config.heads != model_config.d_model:
        raise UserError(
            f"adapters takes a head's width as {model_config.d_model} / {model_config.heads}, but this model's "
            f"is {model_config.head_dim}; "
            "keep it as prefix_jax"
        )
    base, model_class, model_type = family.adapters
    length, left_out = layout.check_length(prefix), _left_out(prefix, model_config)
    prefix = layout.with_offset(prefix, model_config, 0)
    tensors = {}
    for site, location in _LOCATIONS.items():
        if (own := prefix_of(prefix, site)) is not None:
            flat = layout.to_flat(_repeated(own, model_config.heads // model_config.kv_heads)).reshape(-1)
            tensors[f"{base}prefix_tuning.prefix_tunings.{name}.{location}.control_trans"] = flat
    config = {
        "architecture": "prefix_tuning",
        "bottleneck_size": 512,
        "cross_prefix": prefix.cross is not None,
        "dropout": 0.0,
        "encoder_prefix": prefix.encoder is not None,
        "flat": True,
        "init_weights_seed": None,
        "leave_out": left_out,
        "non_linearity": "tanh",
        "prefix_length": length,
        "shared_gating": True,
        "use_gating": False,
    }
    whole = {
        "config": config,
        "hidden_size": model_config.d_model,
        "model_class": model_class,
        "model_name": identity.get("name") or "",
        "model_type": model_type,
        "name": name,
        "version": "adapters.1.2.0",
    }
    return {
        CONFIG: json.dumps(whole, indent=2, sort_keys=True).encode(),
        _WEIGHTS[0]: safetensors_bytes(tensors, {"format": "pt"}),
    }


def _first_layer(model_config: ModelConfig, site: str) -> int:
    """The number that adapters gives the first layer of a site."""
    return 0 if site == "encoder" else model_config.encoder_layers


def _kept(model_config: ModelConfig, site: str, left_out: list[int]) -> tuple[int, ...] | None:
    first = _first_layer(model_config, site)
    kept = tuple(layer for layer in range(model_config.site_layers(site)) if first + layer not in left_out)
    return None if len(kept) == model_config.site_layers(site) else kept


def _left_out(prefix: Prefix, model_config: ModelConfig) -> list[int]:
    """The layers without a prefix; a decoder's layers share one answer for self and cross attention."""
    decoder, cross = prefix.decoder, prefix.cross
    if model_config.is_encoder_decoder and (decoder is None or (cross is not None and cross.layers != decoder.layers)):
        raise UserError(
            "adapters leaves a decoder layer's self and cross attention out together, and this prefix treats them "
            "apart; keep it as prefix_jax"
        )
    left_out = []
    for site in ("encoder", "decoder"):
        own = prefix_of(prefix, site)
        if own is not None and own.layers is not None:
            first = _first_layer(model_config, site)
            left_out += [first + layer for layer in range(model_config.site_layers(site)) if layer not in own.layers]
    return left_out


def _repeated(site: PrefixKV, groups: int) -> PrefixKV:
    """A site with the keys and values of each KV head once for each of its query heads."""
    key, value = (jnp.repeat(leaf, groups, axis=1) for leaf in (site.key, site.value))
    return replace(site, key=key, value=value)


def _read_site(
    tensors: dict[str, np.ndarray], model_config: ModelConfig, length: int, layers: tuple[int, ...] | None
) -> PrefixKV:
    if "control_trans" in tensors:
        numbers = tensors["control_trans"]
        if numbers.size % length:
            raise UserError(f"a flat prefix of {numbers.size:,} numbers has no {length} slots; copy the folder again")
        flat = numbers.reshape(length, -1)
    else:
        flat = layout.mlp_output(tensors, "wte.weight", "control_trans")
    site = layout.from_flat(flat, model_config.heads, model_config.head_dim, layers)
    groups = model_config.heads // model_config.kv_heads
    if groups == 1:
        return site
    own = replace(site, key=site.key[:, ::groups], value=site.value[:, ::groups])
    again = _repeated(own, groups)
    if not (np.array_equal(again.key, site.key) and np.array_equal(again.value, site.value)):
        raise UserError(
            f"this prefix has other keys for each of the {groups} query heads that share a KV head, which only "
            "adapters' own models can use; tune it anew"
        )
    return own
