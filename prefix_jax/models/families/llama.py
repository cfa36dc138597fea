"""The Llama family (Touvron et al. 2023): RMS norm, rotary positions, grouped queries, gated SiLU. Also Mistral,
Qwen2, SmolLM2.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import (
    RotaryConfig,
    RotaryDecoder,
    family,
    fields,
    sizes,
)


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(RotaryConfig):
    family: ClassVar[str] = "llama"
    hashed_as: ClassVar[str] = "LlamaSpec"


class Llama(RotaryDecoder):
    model_config: LlamaConfig


def read(c: dict[str, Any]) -> LlamaConfig:
    refuse(c, "hidden_act", ("silu",))
    kind = c["model_type"]
    # Only transformers' Llama reads the options; its attention_bias is that of the output too.
    if kind == "mistral":
        refuse(c, "attention_bias", (False,))
    if kind != "llama":
        refuse(c, "mlp_bias", (False,))
    bias = kind == "llama" and bool(c.get("attention_bias"))
    biases: dict[str, Any] = dict(qkv_bias=bias or kind == "qwen2", out_bias=bias, mlp_bias=bool(c.get("mlp_bias")))
    return LlamaConfig(**llama_fields(c), **biases)


def llama_fields(c: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Returns the fields of Llama, Mistral, Qwen2 and their like: their heads are rotated whole."""
    window, sliding = windows(c)
    return {**fields(c, **defaults), "rotary_dims": 0, "sliding_window": window, "sliding": sliding}


def windows(c: dict[str, Any]) -> tuple[int | None, tuple[bool, ...]]:
    """Returns the sliding window and whether each layer has it (empty: all); None if no layer has one."""
    qwen = c["model_type"].startswith("qwen")
    # transformers' Llama has no window, regardless of its configuration.
    if c["model_type"] == "llama" or (qwen and not c.get("use_sliding_window")):
        return None, ()
    window, layers = c.get("sliding_window", 4096), c["num_hidden_layers"]
    whole = c.get("max_window_layers", 28) if qwen else 0
    kinds = c.get("layer_types") or ["full_attention"] * min(whole, layers) + ["sliding_attention"] * (layers - whole)
    sliding = tuple(kind == "sliding_attention" for kind in kinds)
    if window is None or not any(sliding):
        return None, ()
    return window, () if all(sliding) else sliding


FAMILY = family(
    "Llama",
    LlamaConfig,
    Llama,
    read,
    known={
        "smollm2-135m": sizes(
            "llama", 30, 576, 9, 3, 1536, 49152, max_position_embeddings=8192, tie_word_embeddings=True,
            rope_theta=100000.0,
        ),
        "llama-2-7b": sizes("llama", 32, 4096, 32, 32, 11008, 32000, max_position_embeddings=4096),
        "llama-2-13b": sizes("llama", 40, 5120, 40, 40, 13824, 32000, max_position_embeddings=4096),
        "llama-2-70b": sizes("llama", 80, 8192, 64, 8, 28672, 32000, max_position_embeddings=4096),
        "llama-3.2-1b": sizes(
            "llama", 16, 2048, 32, 8, 8192, 128256, max_position_embeddings=131072, tie_word_embeddings=True,
            rope_theta=500000.0,
            rope_scaling={"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 8192},
        ),
        "llama-3-8b": sizes("llama", 32, 4096, 32, 8, 14336, 128256, max_position_embeddings=8192),
    },
    kinds=("llama", "mistral", "qwen2"),
    gguf={
        "llama": Gguf("llama", GGUF_TENSORS, permuted=True),
        "qwen2": Gguf("qwen2", GGUF_TENSORS),
    },
    adapters=("model.", "LlamaForCausalLM", "llama"),
)  # fmt: skip
