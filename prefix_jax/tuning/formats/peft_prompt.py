"""PEFT's PROMPT_TUNING and P_TUNING adapters (huggingface/peft, as of 0.21) as our collection of a prompt, and back.

One tensor `prompt_embeddings`, `[P, d_model]`: what stands before the embedded input, already through the encoder of
P-tuning. An encoder-decoder has it before the encoder's input.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained.aliases import hub_id
from prefix_jax.tuning.formats import layout
from prefix_jax.tuning.formats.peft import CONFIG, TENSOR, VERSION, WEIGHTS, read_config


def read(folder: Path, model_config: ModelConfig | None) -> dict[str, np.ndarray]:
    """Returns the collection of an adapter folder.

    Raises:
      UserError: it holds more than a prompt, is damaged, or is of another model, or PEFT embeds its texts otherwise.
    """
    config = read_config(folder)
    tensors = layout.read_tensors(folder, WEIGHTS)
    if more := sorted(set(tensors) - {TENSOR}):
        raise UserError(f"{folder} holds more than a prompt ({more[0]}), which would be lost; save a prompt alone")
    rows = config.get("num_virtual_tokens")
    found = tensors[TENSOR].shape if TENSOR in tensors else "absent"
    if not isinstance(rows, int) or found == "absent" or len(found) != 2 or found[0] < rows:
        raise UserError(f"the tensor {TENSOR} in {folder} is {found}, but {CONFIG} says {rows} tokens; copy both again")
    if model_config is not None and found[1] != model_config.embedding_width:
        raise UserError(
            f"{folder} has a prompt of width {found[1]}, and the model has {model_config.embedding_width}; name its own"
        )
    scale = 1.0 if model_config is None else _scale(model_config)
    return {"embeddings": tensors[TENSOR][:rows].astype(np.float32) * np.float32(scale)}


def encode(tree: Mapping[str, Any], model_config: ModelConfig | None, identity: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the files that `PeftModel.from_pretrained` loads.

    Raises:
      UserError: the model is not known, or PEFT embeds its texts otherwise.
    """
    if model_config is None:
        raise UserError("which model the prompt is for is not known; name it with --model")
    table = np.ascontiguousarray(tree["embeddings"], np.float32) / np.float32(_scale(model_config))
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": hub_id(identity.get("name") or "") or None,
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": model_config.heads,
        "num_layers": model_config.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": table.shape[0],
        "peft_type": "PROMPT_TUNING",
        "peft_version": VERSION,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": "SEQ_2_SEQ_LM" if model_config.is_encoder_decoder else "CAUSAL_LM",
        "token_dim": table.shape[1],
        "tokenizer_name_or_path": None,
    }
    return {
        CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
        WEIGHTS[0]: safetensors_bytes({TENSOR: table}, {"format": "pt"}),
    }


def _scale(model_config: ModelConfig) -> float:
    """Returns what the model multiplies a prompt by in PEFT."""
    if model_config.given_scale is None:
        raise UserError(
            f"with a prompt, PEFT leaves out the scale of a {model_config.family} model's embeddings (scale_embedding) "
            "and the model reads other texts than without; no conversion exists: tune a prefix or LoRA"
        )
    return model_config.given_scale
