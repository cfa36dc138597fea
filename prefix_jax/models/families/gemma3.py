"""Gemma 3, text (Gemma Team 2025): five sliding layers to one full layer, each kind with its own rotary positions;
norms before and after each sublayer, and of queries and keys; GELU gates; scaled embeddings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.gemma2 import NORMS
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import refuse, rotary_scaling
from prefix_jax.models.families.rotary_decoder import (
    RotaryConfig,
    RotaryDecoder,
    Tensors,
    family,
    fields,
    sizes,
)
from prefix_jax.models.model_config import LayerKind, Rotary

_PERIOD = 6
_POSITIONS = 131072


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(RotaryConfig):
    family: ClassVar[str] = "gemma3"
    head_norm: ClassVar[bool] = True
    tensors: ClassVar[Tensors] = Tensors(norms=NORMS, norm_offset=1.0)
    sliding_rope_base: float

    @property
    def logit_multiplier(self) -> float:
        # Files hold the number whose inverse square root multiplies logits.
        return self.query_scale**-0.5

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        near = LayerKind(self.sliding_window, Rotary(self.sliding_rope_base))
        far = LayerKind(None, Rotary(self.rope_base, self.rope_scaling))
        return tuple(near if here else far for here in self.sliding)


class Gemma3(RotaryDecoder):
    model_config: Gemma3Config
    activation = staticmethod(gelu)
    norms = "both"

    @property
    def embedding_scale(self) -> float:
        return self.model_config.d_model**0.5


def read(c: dict[str, Any]) -> Gemma3Config:
    refuse(c, "hidden_activation", ("gelu_pytorch_tanh",))
    for option in ("attn_logit_softcapping", "final_logit_softcapping"):
        refuse(c, option, (None,))
    for option in ("attention_bias", "use_bidirectional_attention"):
        refuse(c, option, (False, None))
    period = c.get("sliding_window_pattern") or c.get("_sliding_window_pattern") or _PERIOD
    whole = [("sliding", "full")[(i + 1) % period == 0] + "_attention" for i in range(c["num_hidden_layers"])]
    far, near = _rope(c)
    ids: dict[str, Any] = dict(bos_token_id=2, eos_token_id=1, pad_token_id=0)
    shape = fields(
        c, vocab_size=262208, head_dim=256, tie_word_embeddings=True, max_position_embeddings=_POSITIONS, **ids
    )
    rotary: dict[str, Any] = dict(
        rotary_dims=0,
        rope_base=float(far.get("rope_theta", 1e6)),
        rope_scaling=rotary_scaling(far, shape["max_positions"]),
        sliding_rope_base=float(near.get("rope_theta", 1e4)),
    )
    return Gemma3Config(
        **{**shape, **rotary},
        sliding_window=c.get("sliding_window", 4096),
        sliding=tuple(kind == "sliding_attention" for kind in c.get("layer_types") or whole),
        query_scale=float(c.get("query_pre_attn_scalar", 256)),
    )


def _rope(c: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the rotary parameters of full and of sliding layers, in the form of transformers 4 or 5."""
    kinds = c.get("rope_parameters") or {}
    if "full_attention" in kinds:
        return dict(kinds["full_attention"]), dict(kinds.get("sliding_attention") or {})
    far = {"rope_theta": c.get("rope_theta", 1e6), **(c.get("rope_scaling") or {})}
    return far, {"rope_theta": c.get("rope_local_base_freq", 1e4)}


def _sizes(
    layers: int, width: int, heads: int, kv_heads: int, inner: int, window: int, **options: Any
) -> dict[str, Any]:
    return sizes("gemma3_text", layers, width, heads, kv_heads, inner, 262144, sliding_window=window, **options)


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    # The file does not store the query scale: all sizes but the 27B use the head dimension (llama-model.cpp).
    layers, width, heads = get("block_count"), get("embedding_length"), get("attention.head_count")
    scaling = {"rope_type": "linear", "factor": get("rope.scaling.factor")} if get("rope.scaling.factor") else None
    return {
        "sliding_window": get("attention.sliding_window"),
        "query_pre_attn_scalar": width // heads if layers == 62 else get("attention.key_length"),
        "rope_scaling": scaling,
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
    }


_GGUF: Mapping[str, str] = {
    **GGUF_TENSORS,
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
FAMILY = family(
    "Gemma 3",
    Gemma3Config,
    Gemma3,
    read,
    known={
        "gemma-3-270m": _sizes(18, 640, 4, 1, 2048, 512, max_position_embeddings=32768),
        "gemma-3-1b": _sizes(26, 1152, 4, 1, 6912, 512, max_position_embeddings=32768),
        "gemma-3-4b": _sizes(34, 2560, 8, 4, 10240, 1024, **_LINEAR),
        "gemma-3-12b": _sizes(48, 3840, 16, 8, 15360, 1024, **_LINEAR),
        "gemma-3-27b": _sizes(62, 5376, 32, 16, 21504, 1024, head_dim=128, query_pre_attn_scalar=168, **_LINEAR),
    },
    kinds=("gemma3_text",),
    gguf={"gemma3": Gguf("gemma3_text", _GGUF, _gguf_options, norm_offset=1.0)},
)
