"""PEFT's PREFIX_TUNING and CARTRIDGE adapters (huggingface/peft, as of 0.21), of decoder-only models.

One tensor `prompt_embeddings` in the order of `layout`, already through the MLP if there was one; keys are as the cache
has them; the prefix stands at positions 0 to P - 1, so tokens start at P, and with ALiBi slots have distances.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax.numpy as jnp
from safetensors.numpy import save as safetensors_bytes

from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Prefix, PrefixKV, length
from prefix_jax.models.pretrained.aliases import hub_id
from prefix_jax.schema import Size
from prefix_jax.tuning.formats import layout

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TENSOR = "prompt_embeddings"
# What the written configuration was tested with.
VERSION = "0.21.2"


class Config(TypedDict):
    """What is read of `adapter_config.json`."""

    peft_type: NotRequired[str]
    task_type: NotRequired[str | None]
    base_model_name_or_path: NotRequired[str | None]
    num_attention_heads: NotRequired[Size | None]
    num_layers: NotRequired[Size | None]
    num_transformer_submodules: NotRequired[Size | None]
    num_virtual_tokens: NotRequired[Size | None]
    token_dim: NotRequired[Size | None]
    r: NotRequired[Size | None]
    lora_alpha: NotRequired[float | None]
    rank_pattern: NotRequired[dict[str, Size] | None]
    alpha_pattern: NotRequired[dict[str, float] | None]
    use_rslora: NotRequired[bool | None]
    bias: NotRequired[str | None]
    init_lora_weights: NotRequired[bool | str | None]


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the configuration of an adapter folder.

    Raises:
      UserError: it is absent or damaged.
    """
    return layout.read_json(folder / CONFIG, Config)


def is_mine(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and "peft_type" in layout.read_json(folder / CONFIG)


def kind(folder: Path) -> str:
    """Returns the type of an adapter folder."""
    return str(read_config(folder).get("peft_type"))


def base_of(folder: Path) -> str:
    """Returns the name of the model that an adapter folder is for; empty where it does not say."""
    return read_config(folder).get("base_model_name_or_path") or ""


def read(folder: Path, model_config: ModelConfig | None) -> tuple[Prefix, dict[str, Any]]:
    """Returns the prefix of an adapter folder and the base model's identity.

    Raises:
      UserError: the adapter is of another kind, of an encoder-decoder, damaged, or has more heads than the model.
    """
    config = read_config(folder)
    if config.get("peft_type") not in ("PREFIX_TUNING", "CARTRIDGE"):
        raise UserError(
            f"{folder} holds a {config.get('peft_type')} adapter, not a prefix (PREFIX_TUNING or CARTRIDGE), a prompt "
            "(PROMPT_TUNING or P_TUNING) or LORA; nothing else can be converted"
        )
    if config.get("task_type") == "SEQ_2_SEQ_LM" or config.get("num_transformer_submodules") == 2:
        raise UserError(
            f"{folder} is PEFT's prefix of an encoder-decoder, whose slots PEFT spreads over the wrong layers; it "
            "cannot be converted: tune it anew"
        )
    missing = [n for n in ("num_attention_heads", "token_dim", "num_virtual_tokens", "num_layers") if not config.get(n)]
    if missing:
        raise UserError(f"{folder / CONFIG} does not say {missing[0]}; save the adapter again with PEFT")
    tensors = layout.read_tensors(folder, WEIGHTS)
    slots, heads, width = config["num_virtual_tokens"], config["num_attention_heads"], config["token_dim"]
    expected = (slots, 2 * config["num_layers"] * width)
    if TENSOR not in tensors or tensors[TENSOR].shape != expected or width % heads:
        found = tensors[TENSOR].shape if TENSOR in tensors else "absent"
        raise UserError(f"the tensor {TENSOR} in {folder} is {found}, but {CONFIG} says {expected}; copy both again")
    if more := sorted(set(tensors) - {TENSOR}):
        raise UserError(f"{folder} holds more than a prefix ({more[0]}), which would be lost; save a prefix alone")
    site = layout.from_flat(tensors[TENSOR], heads, width // heads)
    if model_config is not None and heads == model_config.cached_heads != model_config.kv_heads:
        site = _shared(site, model_config.kv_heads, folder)
    name = config.get("base_model_name_or_path") or ""
    return Prefix(decoder=site, position_offset=slots, distances=True), {"name": name}


def _shared(site: PrefixKV, kv_heads: int, folder: Path) -> PrefixKV:
    """Returns the site with one of the equal heads that transformers' cache has for each key-value head."""
    pair = jnp.stack([site.key, site.value])
    pair = pair.reshape(*pair.shape[:2], kv_heads, -1, *pair.shape[3:])
    if not (pair == pair[:, :, :, :1]).all():
        raise UserError(
            f"{folder} has a key for each query head, and in this model several share one; it cannot be converted: "
            "tune it anew"
        )
    return PrefixKV(pair[0, :, :, 0], pair[1, :, :, 0])


def encode(
    prefix: Prefix, model_config: ModelConfig | None, identity: Mapping[str, Any], name: str
) -> dict[str, bytes]:
    """Returns the files that `PeftModel.from_pretrained` loads.

    Raises:
      UserError: the prefix has other sites than the decoder's, a slot bias or a layer subset; its token positions start
        elsewhere and are learned; or the model has ALiBi and the slots no distances.
    """
    layout.only_decoder(prefix, model_config, "PEFT")
    if model_config is not None and model_config.alibi is not None and not prefix.distances:
        raise UserError(
            "this prefix's slots have no position bias, and in PEFT they have that of their distance (ALiBi); no "
            "conversion exists: tune with --config.prefix.alibi=distance"
        )
    site = layout.only_decoder(layout.with_offset(prefix, model_config, length(prefix)), model_config, "PEFT")
    if model_config is not None and model_config.cached_heads != model_config.kv_heads:
        times = model_config.cached_heads // model_config.kv_heads
        site = PrefixKV(jnp.repeat(site.key, times, axis=1), jnp.repeat(site.value, times, axis=1))
    layers, heads, slots, head_dim = site.key.shape
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": hub_id(identity.get("name") or "") or None,
        "encoder_hidden_size": None,
        "inference_mode": True,
        "init_weights": None,
        "modules_to_save": None,
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": slots,
        "peft_type": "PREFIX_TUNING",
        "peft_version": VERSION,
        "prefix_projection": False,
        "revision": None,
        "task_type": "CAUSAL_LM",
        "token_dim": heads * head_dim,
    }
    return {
        CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
        "adapter_model.safetensors": safetensors_bytes({TENSOR: layout.to_flat(site)}, {"format": "pt"}),
    }
