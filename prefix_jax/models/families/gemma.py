"""Gemma (Gemma Team 2024): Llama's layers with GELU gates, scaled embeddings, norms that multiply by 1 + a weight."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import Family
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, Tensors, fields, modules, parameters


@dataclass(frozen=True, kw_only=True)
class GemmaConfig(RotaryConfig):
    family: ClassVar[str] = "gemma"
    tensors: ClassVar[Tensors] = Tensors(norm_offset=1.0)


class Gemma(RotaryDecoder):
    model_config: GemmaConfig
    activation = staticmethod(gelu)


def read(c: dict[str, Any]) -> GemmaConfig:
    # The released files say "gelu" and mean its approximation; transformers reads `hidden_act` alone.
    refuse(c, "hidden_act", ("gelu_pytorch_tanh", "gelu"))
    refuse(c, "hidden_activation", (None, "gelu_pytorch_tanh", "gelu"))
    for option in ("attention_bias", "use_bidirectional_attention"):
        refuse(c, option, (False, None))
    return GemmaConfig(**gemma_fields(c), embedding_scale=c["hidden_size"] ** 0.5)


def gemma_fields(c: dict[str, Any]) -> dict[str, Any]:
    ids: dict[str, Any] = dict(bos_token_id=2, eos_token_id=1, pad_token_id=0)
    return fields(c, head_dim=256, tie_word_embeddings=True, max_position_embeddings=8192, **ids)


def sizes(layers: int, width: int, heads: int, kv_heads: int, inner: int, **options: Any) -> dict[str, Any]:
    shape = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv_heads)
    return {"model_type": "gemma", **shape, "intermediate_size": inner, "vocab_size": 256000, **options}


FAMILY = Family(
    title="Gemma",
    model_config=GemmaConfig,
    network=Gemma,
    readers={"gemma": read},
    parameters=parameters,
    modules=modules,
    anchor="embed_tokens.weight",
    base="model.",
    known={
        "gemma-2b": sizes(18, 2048, 8, 1, 16384),
        "gemma-7b": sizes(28, 3072, 16, 16, 24576),
    },
)
