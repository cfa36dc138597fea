"""Qwen3 (Yang et al. 2025): Llama's layers with normalised queries and keys, and an explicit head_dim."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Family, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.llama import Llama, LlamaConfig, modules, parameters, sizes_of, windows


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(LlamaConfig):
    family: ClassVar[str] = "qwen3"
    hashed_as: ClassVar[str] = ""
    head_norm: ClassVar[bool] = True


class Qwen3(Llama):
    model_config: Qwen3Config


def read(c: dict[str, Any]) -> Qwen3Config:
    refuse(c, "hidden_act", ("silu",))
    refuse(c, "attention_bias", (False,))
    window, sliding = windows(c)
    c = {"head_dim": 128, **c}
    return Qwen3Config(**sizes_of(c), qkv_bias=False, sliding_window=window, sliding=sliding)


def sizes(layers: int, width: int, heads: int, kv_heads: int, inner: int, tied: bool) -> dict[str, Any]:
    shape = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv_heads)
    more = dict(intermediate_size=inner, head_dim=128, vocab_size=151936, max_position_embeddings=40960)
    return {"model_type": "qwen3", **shape, **more, "rope_theta": 1e6, "tie_word_embeddings": tied}


_GGUF: Mapping[str, str] = {
    **GGUF_TENSORS, "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
FAMILY = Family(
    title="Qwen3",
    model_config=Qwen3Config,
    network=Qwen3,
    readers={"qwen3": read},
    parameters=parameters,
    modules=modules,
    anchor="embed_tokens.weight",
    base="model.",
    known={
        "qwen3-0.6b": sizes(28, 1024, 16, 8, 3072, tied=True),
        "qwen3-1.7b": sizes(28, 2048, 16, 8, 6144, tied=True),
        "qwen3-4b": sizes(36, 2560, 32, 8, 9728, tied=True),
        "qwen3-8b": sizes(36, 4096, 32, 8, 12288, tied=False),
    },
    gguf={"qwen3": Gguf("qwen3", _GGUF)},
)
