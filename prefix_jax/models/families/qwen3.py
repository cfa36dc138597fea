"""Qwen3 (Yang et al. 2025): Llama's layers with normalised queries and keys, and an explicit head_dim."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.llama import llama_fields
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, family, sizes

VOCABULARY = 151936


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(RotaryConfig):
    family: ClassVar[str] = "qwen3"
    head_norm: ClassVar[bool] = True


class Qwen3(RotaryDecoder):
    model_config: Qwen3Config


def read(c: dict[str, Any]) -> Qwen3Config:
    refuse(c, "hidden_act", ("silu",))
    refuse(c, "attention_bias", (False,))
    return Qwen3Config(**llama_fields(c, head_dim=128))


def _sizes(layers: int, width: int, heads: int, inner: int, tied: bool) -> dict[str, Any]:
    options = dict(head_dim=128, max_position_embeddings=40960, rope_theta=1e6, tie_word_embeddings=tied)
    return sizes("qwen3", layers, width, heads, 8, inner, VOCABULARY, **options)


_GGUF: Mapping[str, str] = {
    **GGUF_TENSORS, "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
FAMILY = family(
    "Qwen3",
    Qwen3Config,
    Qwen3,
    read,
    known={
        "qwen3-0.6b": _sizes(28, 1024, 16, 3072, tied=True),
        "qwen3-1.7b": _sizes(28, 2048, 16, 6144, tied=True),
        "qwen3-4b": _sizes(36, 2560, 32, 9728, tied=True),
        "qwen3-8b": _sizes(36, 4096, 32, 12288, tied=False),
    },
    gguf={"qwen3": Gguf("qwen3", _GGUF)},
)
