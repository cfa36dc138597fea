"""SmolLM3 (Hugging Face 2025): Llama with every fourth layer without positions."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, family, fields, sizes


@dataclass(frozen=True, kw_only=True)
class SmolLM3Config(RotaryConfig):
    family: ClassVar[str] = "smollm3"


class SmolLM3(RotaryDecoder):
    model_config: SmolLM3Config


def read(c: dict[str, Any]) -> SmolLM3Config:
    refuse(c, "hidden_act", ("silu",))
    layers, every = c["num_hidden_layers"], c.get("no_rope_layer_interval", 4)
    rotated = c.get("no_rope_layers") or [(i + 1) % every != 0 for i in range(layers)]  # it names those that have them
    near = bool(c.get("use_sliding_window")) and c.get("sliding_window") is not None
    kinds = c.get("layer_types") or ["full_attention" if here or not near else "sliding_attention" for here in rotated]
    sliding = tuple(kind == "sliding_attention" for kind in kinds)
    bias = bool(c.get("attention_bias"))
    ids: dict[str, Any] = dict(bos_token_id=128000, eos_token_id=128001, pad_token_id=128004)
    return SmolLM3Config(
        **fields(
            c, num_key_value_heads=4, max_position_embeddings=32768, rope_theta=2e6, tie_word_embeddings=True, **ids
        ),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bool(c.get("mlp_bias")),
        sliding_window=c.get("sliding_window") if any(sliding) else None,
        sliding=sliding,
        unrotated=tuple(not here for here in rotated),
    )


FAMILY = family(
    "SmolLM3",
    SmolLM3Config,
    SmolLM3,
    read,
    known={
        "smollm3-3b": sizes(
            "smollm3", 36, 2048, 16, 4, 11008, 128256, max_position_embeddings=65536, rope_theta=5000000.0
        ),
    },
    gguf={"smollm3": Gguf("smollm3", GGUF_TENSORS, permuted=True)},
)
