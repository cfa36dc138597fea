"""StableLM (Stability AI 2023): Llama with layer norms and rotary positions in a quarter of a head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf, gguf_layer_norms
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import LayerNormDecoder, RotaryConfig, Tensors, family, fields, sizes
from prefix_jax.models.layers import OwnScaleAttention


@dataclass(frozen=True, kw_only=True)
class StableLmConfig(RotaryConfig):
    family: ClassVar[str] = "stablelm"
    tensors: ClassVar[Tensors] = Tensors(norm_bias=True, head_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"))
    own_norms: ClassVar[bool] = True
    # Whether queries and keys are normalised.
    qk_norm: bool = False

    @property
    def normed_heads(self) -> bool:
        return self.qk_norm


class StableLm(LayerNormDecoder):
    model_config: StableLmConfig
    attention = OwnScaleAttention


def read(c: dict[str, Any]) -> StableLmConfig:
    refuse(c, "hidden_act", ("silu",))
    ids = dict(bos_token_id=0, eos_token_id=0)
    shape = fields(
        c, "layer_norm_eps", layer_norm_eps=1e-5, max_position_embeddings=4096, partial_rotary_factor=0.25, **ids
    )
    parallel = bool(c.get("use_parallel_residual"))
    return StableLmConfig(
        **shape, qkv_bias=bool(c.get("use_qkv_bias")), parallel=parallel, qk_norm=bool(c.get("qk_layernorm"))
    )


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    return {"use_parallel_residual": bool(get("use_parallel_residual")), **gguf_layer_norms(get, "layer_norm_eps")}


FAMILY = family(
    "StableLM",
    StableLmConfig,
    StableLm,
    read,
    known={
        "stablelm-3b-4e1t": sizes("stablelm", 32, 2560, 32, 32, 6912, 50304),
        "stablelm-2-1.6b": sizes("stablelm", 24, 2048, 32, 32, 5632, 100352, use_qkv_bias=True),
    },
    gguf={"stablelm": Gguf("stablelm", GGUF_TENSORS, _gguf_options)},
)
