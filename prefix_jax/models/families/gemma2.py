"""Gemma 2 (Gemma Team 2024): every second layer has a sliding window; norms before and after each sublayer; soft caps
of attention logits and of the last ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families import gemma
from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, Tensors, family, sizes

NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True, kw_only=True)
class Gemma2Config(RotaryConfig):
    family: ClassVar[str] = "gemma2"
    tensors: ClassVar[Tensors] = Tensors(norms=NORMS, norm_offset=1.0)


class Gemma2(RotaryDecoder):
    model_config: Gemma2Config
    activation = staticmethod(gelu)
    norms = "both"


def read(c: dict[str, Any]) -> Gemma2Config:
    refuse(c, "hidden_activation", ("gelu_pytorch_tanh",))
    for option in ("attention_bias", "use_bidirectional_attention"):
        refuse(c, option, (False, None))
    layers = c["num_hidden_layers"]
    kinds = c.get("layer_types") or [("sliding", "full")[i % 2] + "_attention" for i in range(layers)]
    shape = {**gemma.gemma_fields(c), "query_scale": c.get("query_pre_attn_scalar", 256) ** -0.5}
    return Gemma2Config(
        **shape,
        embedding_scale=c["hidden_size"] ** 0.5,
        sliding_window=c.get("sliding_window", 4096),
        sliding=tuple(kind == "sliding_attention" for kind in kinds),
        attention_cap=c.get("attn_logit_softcapping", 50.0),
        logit_cap=c.get("final_logit_softcapping", 30.0),
    )


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    # The file does not store the query scale: all sizes but the 27B use the head dimension (llama-model.cpp).
    layers, width, heads = get("block_count"), get("embedding_length"), get("attention.head_count")
    return {
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": get("attention.sliding_window"),
        "query_pre_attn_scalar": width // heads if layers == 46 else get("attention.key_length"),
        "attn_logit_softcapping": get("attn_logit_softcapping"),
        "final_logit_softcapping": get("final_logit_softcapping"),
    }


_GGUF = {
    **GGUF_TENSORS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
FAMILY = family(
    "Gemma 2",
    Gemma2Config,
    Gemma2,
    read,
    known={
        "gemma-2-2b": sizes("gemma2", 26, 2304, 8, 4, 9216, gemma.VOCABULARY, head_dim=256, query_pre_attn_scalar=256),
        "gemma-2-9b": sizes(
            "gemma2", 42, 3584, 16, 8, 14336, gemma.VOCABULARY, head_dim=256, query_pre_attn_scalar=256
        ),
        "gemma-2-27b": sizes(
            "gemma2", 46, 4608, 32, 16, 36864, gemma.VOCABULARY, head_dim=128, query_pre_attn_scalar=144
        ),
    },
    gguf={"gemma2": Gguf("gemma2", _GGUF, _gguf_options, norm_offset=1.0)},
)
