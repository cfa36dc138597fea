"""Mixtral (Jiang et al. 2024): Mistral whose MLPs are mixtures of experts."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.mixture import MixtureConfig, MixtureDecoder, experts
from prefix_jax.models.families.rotary_decoder import Tensors, family, fields, sizes


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(MixtureConfig):
    family: ClassVar[str] = "mixtral"
    tensors: ClassVar[Tensors] = Tensors(mlp={})
    places: ClassVar[tuple[str, ...]] = ("block_sparse_moe", "mlp")
    parts: ClassVar[tuple[str, str, str]] = ("w1", "w3", "w2")


class Mixtral(MixtureDecoder):
    model_config: MixtralConfig


def read(c: dict[str, Any]) -> MixtralConfig:
    refuse(c, "hidden_act", ("silu",))
    ids: dict[str, Any] = dict(bos_token_id=1, eos_token_id=2)
    shape = fields(c, rms_norm_eps=1e-5, max_position_embeddings=131072, num_key_value_heads=8, rope_theta=1e6, **ids)
    count = c.get("num_local_experts") or c.get("num_experts") or 8
    return MixtralConfig(
        **shape, experts=count, chosen=c.get("num_experts_per_tok", 2), sliding_window=c.get("sliding_window")
    )


def _sizes(layers: int, width: int, heads: int, inner: int, vocabulary: int, positions: int) -> dict[str, Any]:
    return sizes("mixtral", layers, width, heads, 8, inner, vocabulary, max_position_embeddings=positions)


FAMILY = family(
    "Mixtral",
    MixtralConfig,
    Mixtral,
    read,
    known={
        "mixtral-8x7b": _sizes(32, 4096, 32, 14336, 32000, 32768),
        "mixtral-8x22b": _sizes(56, 6144, 48, 16384, 32000, 65536),
    },
    inner=experts,
)
