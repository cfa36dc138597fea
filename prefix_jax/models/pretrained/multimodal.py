"""The language model inside a multimodal checkpoint: its configuration and its tensors, without the other modalities.

With text alone, such a model computes what its language model computes: the positions along height, width and time of
"mrope" are then one number, and attention is causal.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any

from prefix_jax.errors import UserError
from prefix_jax.models.leaves import Leaf

# Models whose language model is a member, and its `model_type` where the configuration does not say.
_MODELS = {
    "gemma3": "gemma3_text",
    "llava": "llama",
    "llava_next": "llama",
    "mistral3": "mistral",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
}
_SAME = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
# transformers' defaults: published files list only what differs.
_LLAMA = dict(
    vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
    max_position_embeddings=2048,
)  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {
        **_LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "gemma3_text": dict(
        vocab_size=262208, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, max_position_embeddings=131072,
    ),
}  # fmt: skip
# What the whole model decides also for its language model.
_OF_THE_WHOLE = ("eos_token_id", "bos_token_id", "pad_token_id", "tie_word_embeddings", "quantization_config")
_LANGUAGE = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?")
_OTHERS = re.compile(r"^(?:model\.)?(visual|vision_tower|vision_model|multi_modal_projector|image_newline)\b")


def language_part(config: dict[str, Any], table: Mapping[str, Leaf]) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """Returns a checkpoint's language model; the checkpoint itself if it is not multimodal.

    What is left out is said in one line on stderr.

    Raises:
      UserError: it is multimodal, and its language model is not supported.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _MODELS:
        _refuse_others(config)
        return config, dict(table)
    text = _text(config, kind)
    parts = {match[1] for name in table if (match := _OTHERS.match(name))}
    found = {_renamed(name): leaf for name, leaf in table.items() if not _OTHERS.match(name)}
    print(
        f"The model is a {kind}; its language model ({text['model_type']}) is read, and "
        f"{' and '.join(sorted(parts)) or 'nothing'} ({len(table) - len(found)} tensors) is left out.",
        file=sys.stderr,
    )
    return text, found


def _refuse_others(config: Mapping[str, Any]) -> None:
    if isinstance(config.get("text_config"), Mapping):
        known = ", ".join(sorted(_MODELS))
        raise UserError(
            f'a multimodal model of model_type "{config.get("model_type")}" is not supported; the language models of '
            f"these are: {known}"
        )


def _text(config: dict[str, Any], kind: str) -> dict[str, Any]:
    # Files of transformers 4 have the options of Qwen2-VL's language model beside those of the whole.
    inner = config.get("text_config")
    inner = {n: v for n, v in config.items() if n != "vision_config"} if inner is None else inner
    if not isinstance(inner, Mapping):
        raise UserError(
            f"the config.json of this {kind} model has a text_config that is not an object; download it again"
        )
    found = str(inner.get("model_type") or _MODELS[kind])
    name = _MODELS[kind] if found == kind else _SAME.get(found, found)
    whole = {option: config[option] for option in _OF_THE_WHOLE if config.get(option) is not None}
    return {**_DEFAULTS.get(name, {}), **_one_position({**inner}), **whole, "model_type": name}


def _one_position(text: dict[str, Any]) -> dict[str, Any]:
    """Replaces rotary positions in three dimensions by those of text, which are the same in each."""
    for option in ("rope_scaling", "rope_parameters"):
        rope = text.get(option)
        if isinstance(rope, Mapping) and (kept := {n: v for n, v in rope.items() if not n.startswith("mrope")}) != rope:
            kinds = {n: "default" if kept[n] == "mrope" else kept[n] for n in ("type", "rope_type") if n in kept}
            text[option] = {**kept, **kinds}
    return text


def _renamed(name: str) -> str:
    if not (match := _LANGUAGE.match(name)):
        return name
    rest = name[match.end() :]
    return rest if rest.startswith("lm_head.") else f"model.{rest}"
