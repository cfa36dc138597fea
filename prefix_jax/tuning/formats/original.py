"""Weights of the original code (XiangLi1999/PrefixTuning) and of P-tuning-v2, both as their own training saves them.

Original: `wte.weight [P, E]` and `control_trans.{0,2}` (decoder), `wte_enc`, `control_trans_enc` (encoder), `wte2`,
`control_trans2` (cross); its ablation without an MLP a `control_trans` of one axis, or of `[2 L, 1, K, P, D]`.
P-tuning-v2: `prefix_encoder.embedding.weight` and, with a projection, `prefix_encoder.trans.{0,2}`. All in the order of
`layout`. GPT-2's tokens start after the prefix.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prefix_jax.errors import UserError
from prefix_jax.models import families
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Prefix, PrefixKV, length
from prefix_jax.tuning.formats import layout
from prefix_jax.tuning.formats.torch_zip import torch_bytes

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "prefix.bin")
_PARTS = {
    "decoder": ("wte.weight", "control_trans"),
    "encoder": ("wte_enc.weight", "control_trans_enc"),
    "cross": ("wte2.weight", "control_trans2"),
}
_PTUNING = ("prefix_encoder.embedding.weight", "prefix_encoder.trans")


def is_mine(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in WEIGHTS):
        return False
    names = layout.read_tensors(folder, WEIGHTS)
    return "control_trans" in names or "control_trans.0.weight" in names or _PTUNING[0] in names


def read(folder: Path, model_config: ModelConfig | None) -> tuple[Prefix, dict[str, Any]]:
    """Returns the prefix, MLP evaluated; its identity is empty, since these files name no model.

    Raises:
      UserError: the model config is missing, the weights do not fit it, or they are an infix.
    """
    if model_config is None:
        raise UserError(f"{folder} does not say the model's heads and layers; name the model with --model")
    tensors = layout.read_tensors(folder, WEIGHTS)
    if "wte2.weight" in tensors and "control_trans2.0.weight" not in tensors:
        raise UserError(
            f"{folder} holds an infix, whose keys depend on the input; only fixed prefixes can be converted"
        )
    if _PTUNING[0] in tensors:
        sites: dict[str, Any] = {"decoder": _site(layout.mlp_output(tensors, *_PTUNING), model_config)}
    elif "control_trans" in tensors:
        sites = {"decoder": _flat_site(tensors["control_trans"], model_config)}
    else:
        present = {site: part for site, part in _PARTS.items() if f"{part[1]}.0.weight" in tensors}
        if unfit := [site for site in present if site not in model_config.sites]:
            raise UserError(f"{folder} has a prefix for the {unfit[0]} attention, which this model has not")
        sites = {site: _site(layout.mlp_output(tensors, *part), model_config) for site, part in present.items()}
    prefix = Prefix(**sites)
    return replace(prefix, position_offset=length(prefix)), {}


def encode(
    prefix: Prefix, model_config: ModelConfig | None, identity: Mapping[str, Any], name: str
) -> dict[str, bytes]:
    """Returns `pytorch_model.bin` and the `config.json` with which the original code reads it, the prefix flat.

    Raises:
      UserError: the model is not GPT-2, the only one with a flat form there, or that form cannot hold the prefix.
    """
    site = layout.only_decoder(prefix, model_config, "the original code")
    if model_config is None or not families.of(model_config).original:
        raise UserError(
            "the original code has a flat prefix for GPT-2 only, and this model is not known to be one; if it is, name "
            "it with --model"
        )
    prefix = layout.with_offset(prefix, model_config, length(prefix))
    config = {
        "_my_arg_task_mode": "data2text",
        "_my_arg_tune_mode": "prefixtune",
        "architectures": ["PrefixTuning"],
        "init_shallow": "yes",
        "model_type": families.of(model_config).original,
        "n_embd": model_config.d_model,
        "n_head": model_config.heads,
        "n_layer": model_config.layers,
        "n_positions": model_config.context_length,
        "optim_prefix": True,
        "preseqlen": length(prefix),
        "train_weights": "no",
        "vocab_size": model_config.vocab_size,
    }
    return {
        "config.json": json.dumps(config, indent=2, sort_keys=True).encode(),
        "pytorch_model.bin": torch_bytes({"control_trans": layout.to_flat(site).reshape(-1)}),
    }


def _site(flat: np.ndarray, model_config: ModelConfig) -> PrefixKV:
    site = layout.from_flat(flat, model_config.kv_heads, model_config.head_dim)
    if site.key.shape[0] != model_config.layers:
        raise UserError(
            f"these weights hold {site.key.shape[0]} layers, but the model has {model_config.layers}; is it "
            "another model?"
        )
    return site


def _flat_site(numbers: np.ndarray, model_config: ModelConfig) -> PrefixKV:
    if numbers.ndim == 5:  # [2 L, 1, K, P, D], from the keys and values of words
        numbers = np.moveaxis(numbers[:, 0], 2, 0).reshape(numbers.shape[3], -1)
    width = 2 * model_config.layers * model_config.kv_heads * model_config.head_dim
    if numbers.size % width:
        raise UserError(
            f"a prefix of {numbers.size:,} numbers is not a multiple of this model's {width:,} a slot; is it another's?"
        )
    return _site(numbers.reshape(-1, width), model_config)
