"""Qwen3-MoE (Yang et al. 2025): Qwen3 whose MLPs are mixtures of many small experts."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.mixture import MixtureConfig, MixtureDecoder, experts, sparse_everywhere
from prefix_jax.models.families.qwen3 import VOCABULARY
from prefix_jax.models.families.rotary_decoder import Tensors, family, fields, sizes


@dataclass(frozen=True, kw_only=True)
class Qwen3MoeConfig(MixtureConfig):
    family: ClassVar[str] = "qwen3_moe"
    head_norm: ClassVar[bool] = True
    tensors: ClassVar[Tensors] = Tensors(mlp={})


class Qwen3Moe(MixtureDecoder):
    model_config: Qwen3MoeConfig


def read(c: dict[str, Any]) -> Qwen3MoeConfig:
    refuse(c, "hidden_act", ("silu",))
    sparse_everywhere(c)
    bias = bool(c.get("attention_bias"))
    shape = fields(c, num_key_value_heads=4, max_position_embeddings=32768)
    options: dict[str, Any] = dict(
        qkv_bias=bias,
        out_bias=bias,
        sliding_window=c.get("sliding_window", 4096) if c.get("use_sliding_window") else None,
        experts=c.get("num_experts") or c.get("num_local_experts") or 128,
        chosen=c.get("num_experts_per_tok", 8),
        renormalised=bool(c.get("norm_topk_prob", False)),
    )
    return Qwen3MoeConfig(**{**shape, "d_ff": c.get("moe_intermediate_size", 768)}, **options)


def _sizes(layers: int, width: int, heads: int, inner: int, small: int) -> dict[str, Any]:
    options = dict(head_dim=128, max_position_embeddings=40960, rope_theta=1e6, norm_topk_prob=True)
    return sizes("qwen3_moe", layers, width, heads, 4, inner, VOCABULARY, moe_intermediate_size=small, **options)


FAMILY = family(
    "Qwen3-MoE",
    Qwen3MoeConfig,
    Qwen3Moe,
    read,
    known={
        "qwen3-30b-a3b": _sizes(48, 2048, 32, 6144, 768),
        "qwen3-235b-a22b": _sizes(94, 4096, 64, 12288, 1536),
    },
    inner=experts,
)
