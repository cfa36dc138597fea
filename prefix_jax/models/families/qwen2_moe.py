"""Qwen1.5-MoE and Qwen2-MoE (Yang et al. 2024): Qwen2 with many small experts, and one that all tokens take."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.mixture import MixtureConfig, MixtureDecoder, sparse_everywhere, with_shared
from prefix_jax.models.families.qwen3 import VOCABULARY
from prefix_jax.models.families.rotary_decoder import Tensors, family, fields, sizes


@dataclass(frozen=True, kw_only=True)
class Qwen2MoeConfig(MixtureConfig):
    family: ClassVar[str] = "qwen2_moe"
    tensors: ClassVar[Tensors] = Tensors(
        mlp={f"shared/{name}": f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")}
    )


class Qwen2Moe(MixtureDecoder):
    model_config: Qwen2MoeConfig


def read(c: dict[str, Any]) -> Qwen2MoeConfig:
    refuse(c, "hidden_act", ("silu",))
    sparse_everywhere(c)
    layers, near = c["num_hidden_layers"], bool(c.get("use_sliding_window"))
    first = c.get("max_window_layers", 28)
    alternate = ["sliding_attention" if i % 2 == 0 and i < first else "full_attention" for i in range(layers)]
    sliding = tuple(near and kind == "sliding_attention" for kind in c.get("layer_types") or alternate)
    shape = fields(c, num_key_value_heads=16, max_position_embeddings=32768)
    options: dict[str, Any] = dict(
        qkv_bias=bool(c.get("qkv_bias", True)),
        sliding_window=c.get("sliding_window", 4096) if any(sliding) else None,
        sliding=sliding if any(sliding) else (),
        experts=c.get("num_experts", 60),
        chosen=c.get("num_experts_per_tok", 4),
        renormalised=bool(c.get("norm_topk_prob", False)),
        shared_width=c.get("shared_expert_intermediate_size", 5632),
    )
    return Qwen2MoeConfig(**{**shape, "d_ff": c.get("moe_intermediate_size", 1408)}, **options)


FAMILY = family(
    "Qwen2-MoE",
    Qwen2MoeConfig,
    Qwen2Moe,
    read,
    known={
        "qwen1.5-moe-a2.7b": sizes("qwen2_moe", 24, 2048, 16, 16, 5632, VOCABULARY, max_position_embeddings=8192),
        "qwen2-57b-a14b": sizes(
            "qwen2_moe", 28, 3584, 28, 4, 18944, VOCABULARY, max_position_embeddings=32768, num_experts=64,
            num_experts_per_tok=8, moe_intermediate_size=2560, shared_expert_intermediate_size=20480,
        ),
    },
    inner=with_shared,
)  # fmt: skip
