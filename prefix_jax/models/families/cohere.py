"""Cohere (Command R): attention and MLP side by side after one layer norm without bias; neighbours are rotated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import LayerNormDecoder, RotaryConfig, Tensors, family, fields, sizes
from prefix_jax.models.layers import OwnScaleAttention


@dataclass(frozen=True, kw_only=True)
class CohereConfig(RotaryConfig):
    family: ClassVar[str] = "cohere"
    interleaved: ClassVar[bool] = True
    tensors: ClassVar[Tensors] = Tensors(norms={"attention_norm": "input_layernorm"})
    own_norms: ClassVar[bool] = True
    # Whether queries and keys are normalised.
    qk_norm: bool = False

    @property
    def normed_heads(self) -> bool:
        return self.qk_norm


class Cohere(LayerNormDecoder):
    model_config: CohereConfig
    attention = OwnScaleAttention


def read(c: dict[str, Any]) -> CohereConfig:
    refuse(c, "hidden_act", ("silu",))
    bias = bool(c.get("attention_bias"))
    ids = dict(bos_token_id=5, eos_token_id=255001, pad_token_id=0)
    shape = fields(
        c, "layer_norm_eps", layer_norm_eps=1e-5, rope_theta=5e5, max_position_embeddings=8192,
        tie_word_embeddings=True, **ids,
    )  # fmt: skip
    scale = float(c.get("logit_scale", 0.0625))
    return CohereConfig(
        **shape, qkv_bias=bias, out_bias=bias, parallel=True, logit_scale=scale, qk_norm=bool(c.get("use_qk_norm"))
    )


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    return {"layer_norm_eps": get("attention.layer_norm_epsilon"), "logit_scale": get("logit_scale")}


FAMILY = family(
    "Cohere",
    CohereConfig,
    Cohere,
    read,
    known={
        "command-r-v01": sizes(
            "cohere", 40, 8192, 64, 64, 22528, 256000, max_position_embeddings=131072, rope_theta=8000000.0
        ),
    },
    gguf={"command-r": Gguf("cohere", GGUF_TENSORS, _gguf_options)},
)
