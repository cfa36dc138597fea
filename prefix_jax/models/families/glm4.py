"""GLM-4 (GLM Team 2025): norms before and after each sublayer, neighbours in half of a head rotated, fused gates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, Tensors, family, fields


@dataclass(frozen=True, kw_only=True)
class Glm4Config(RotaryConfig):
    family: ClassVar[str] = "glm4"
    interleaved: ClassVar[bool] = True
    tensors: ClassVar[Tensors] = Tensors(
        norms={
            "attention_norm": "input_layernorm",
            "attention_post_norm": "post_self_attn_layernorm",
            "mlp_norm": "post_attention_layernorm",
            "mlp_post_norm": "post_mlp_layernorm",
        },
        gate_up="mlp.gate_up_proj",
        mlp={"gate": "", "up": "", "down": "mlp.down_proj"},
    )


class Glm4(RotaryDecoder):
    model_config: Glm4Config
    norms = "both"


def read(c: dict[str, Any]) -> Glm4Config:
    refuse(c, "hidden_act", ("silu",))
    shape = fields(
        c, rms_norm_eps=1.5625e-07, head_dim=128, num_key_value_heads=2, max_position_embeddings=131072,
        partial_rotary_factor=0.5, pad_token_id=151329, eos_token_id=[151329, 151336, 151338],
    )  # fmt: skip
    return Glm4Config(**shape, qkv_bias=bool(c.get("attention_bias", True)))


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    width = get("attention.key_length", get("embedding_length") // get("attention.head_count"))
    rotated = get("rope.dimension_count", width)
    return {"attention_bias": False, "partial_rotary_factor": rotated / width}


_GGUF = {
    **GGUF_TENSORS,
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    "ffn_up": "mlp.gate_up_proj",
}
FAMILY = family(
    "GLM-4",
    Glm4Config,
    Glm4,
    read,
    gguf={"glm4": Gguf("glm4", _GGUF, _gguf_options)},
)
