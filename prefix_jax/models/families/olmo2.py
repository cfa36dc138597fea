"""OLMo 2 (OLMo Team 2025): norms after each sublayer, and one of all queries and of all keys of a token."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, Tensors, family, fields, sizes
from prefix_jax.models.layers import WholeNormAttention


@dataclass(frozen=True, kw_only=True)
class Olmo2Config(RotaryConfig):
    family: ClassVar[str] = "olmo2"
    head_norm: ClassVar[bool] = True
    whole_norm: ClassVar[bool] = True
    tensors: ClassVar[Tensors] = Tensors(
        norms={
            "attention_post_norm": "post_attention_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        }
    )


class Olmo2(RotaryDecoder):
    model_config: Olmo2Config
    norms = "post"
    attention = WholeNormAttention


def read(c: dict[str, Any]) -> Olmo2Config:
    refuse(c, "hidden_act", ("silu",))
    bias = bool(c.get("attention_bias"))
    return Olmo2Config(**fields(c, rms_norm_eps=1e-5, eos_token_id=50279, pad_token_id=1), qkv_bias=bias, out_bias=bias)


_GGUF = {
    **GGUF_TENSORS,
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
FAMILY = family(
    "OLMo 2",
    Olmo2Config,
    Olmo2,
    read,
    known={
        "olmo-2-1b": sizes("olmo2", 16, 2048, 16, 16, 8192, 100352, max_position_embeddings=4096, rope_theta=500000.0),
        "olmo-2-7b": sizes("olmo2", 32, 4096, 32, 32, 11008, 100352, max_position_embeddings=4096, rope_theta=500000.0),
    },
    gguf={"olmo2": Gguf("olmo2", _GGUF)},
)
