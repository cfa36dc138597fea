"""Gemma (Gemma Team 2024): Llama's layers with GELU gates, scaled embeddings, norms that multiply by 1 + a weight."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, Tensors, family, fields, sizes

VOCABULARY = 256000


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


FAMILY = family(
    "Gemma",
    GemmaConfig,
    Gemma,
    read,
    known={
        "gemma-2b": sizes("gemma", 18, 2048, 8, 1, 16384, VOCABULARY),
        "gemma-7b": sizes("gemma", 28, 3072, 16, 16, 24576, VOCABULARY),
    },
    gguf={"gemma": Gguf("gemma", GGUF_TENSORS, lambda get: {"hidden_act": "gelu_pytorch_tanh"}, norm_offset=1.0)},
)
