"""Phi-3 and Phi-4 (Abdin et al. 2024): Llama with fused projections, and rotary positions in part of a head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder, Tensors, family, fields, sizes


@dataclass(frozen=True, kw_only=True)
class Phi3Config(RotaryConfig):
    family: ClassVar[str] = "phi3"
    tensors: ClassVar[Tensors] = Tensors(
        qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj", mlp={"gate": "", "up": "", "down": "mlp.down_proj"}
    )


class Phi3(RotaryDecoder):
    model_config: Phi3Config


def read(c: dict[str, Any]) -> Phi3Config:
    refuse(c, "hidden_act", ("silu",))
    rope = c.get("rope_scaling") or c.get("rope_parameters") or {}
    kind = {"model_type": c["model_type"], "rope_type": rope.get("rope_type", rope.get("type", "default"))}
    refuse(kind, "rope_type", ("default", "longrope", "su"))
    ids: dict[str, Any] = dict(bos_token_id=1, eos_token_id=32000, pad_token_id=32000)
    shape = fields(c, rms_norm_eps=1e-5, max_position_embeddings=4096, **ids)
    return Phi3Config(**shape, sliding_window=c.get("sliding_window"))


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    width = get("attention.key_length", get("embedding_length") // get("attention.head_count"))
    return {
        "partial_rotary_factor": get("rope.dimension_count", width) / width,
        "sliding_window": get("attention.sliding_window"),
        "original_max_position_embeddings": get("rope.scaling.original_context_length"),
        "attention_factor": get("rope.scaling.attn_factor"),
    }


_GGUF = {**GGUF_TENSORS, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
FAMILY = family(
    "Phi-3",
    Phi3Config,
    Phi3,
    read,
    known={
        "phi-3-mini-4k": sizes("phi3", 32, 3072, 32, 32, 8192, 32064, sliding_window=2047),
        "phi-4": sizes("phi3", 40, 5120, 40, 10, 17920, 100352, max_position_embeddings=16384, rope_theta=250000.0),
    },
    gguf={"phi3": Gguf("phi3", _GGUF, _gguf_options)},
)
