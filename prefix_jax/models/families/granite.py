"""Granite 3 (IBM 2024): Llama with multipliers of embeddings, attention logits, sums and the last logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, family, fields


@dataclass(frozen=True, kw_only=True)
class GraniteConfig(RotaryConfig):
    family: ClassVar[str] = "granite"

    @property
    def given_scale(self) -> float:
        return self.embedding_scale


class Granite(RotaryDecoder):
    model_config: GraniteConfig


def read(c: dict[str, Any]) -> GraniteConfig:
    refuse(c, "hidden_act", ("silu",))
    bias = bool(c.get("attention_bias"))
    shape = {**fields(c, bos_token_id=1), "query_scale": float(c.get("attention_multiplier", 1.0))}
    return GraniteConfig(
        **shape,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bool(c.get("mlp_bias")),
        embedding_scale=float(c.get("embedding_multiplier", 1.0)),
        residual_scale=float(c.get("residual_multiplier", 1.0)),
        logit_scale=1 / c.get("logits_scaling", 1.0),
    )


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    return {
        "attention_multiplier": get("attention.scale", 1.0),
        "embedding_multiplier": get("embedding_scale", 1.0),
        "residual_multiplier": get("residual_scale", 1.0),
        "logits_scaling": get("logit_scale", 1.0),
    }


FAMILY = family(
    "Granite",
    GraniteConfig,
    Granite,
    read,
    gguf={"granite": Gguf("granite", GGUF_TENSORS, _gguf_options, permuted=True)},
)
