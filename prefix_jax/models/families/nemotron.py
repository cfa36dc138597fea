"""Nemotron (NVIDIA 2024): layer norms that multiply by 1 + a weight, squared ReLU, half of a head rotated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf, gguf_layer_norms
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import LayerNormDecoder, RotaryConfig, Tensors, family, fields


@dataclass(frozen=True, kw_only=True)
class NemotronConfig(RotaryConfig):
    family: ClassVar[str] = "nemotron"
    tensors: ClassVar[Tensors] = Tensors(
        mlp={"up": "mlp.up_proj", "down": "mlp.down_proj"}, norm_offset=1.0, norm_bias=True
    )


class Nemotron(LayerNormDecoder):
    model_config: NemotronConfig
    activation = staticmethod(lambda x: jnp.square(jax.nn.relu(x)))


def read(c: dict[str, Any]) -> NemotronConfig:
    refuse(c, "hidden_act", ("relu2",))
    bias = bool(c.get("attention_bias"))
    shape = fields(
        c, "norm_eps", norm_eps=1e-5, max_position_embeddings=4096, partial_rotary_factor=0.5, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    return NemotronConfig(**shape, qkv_bias=bias, out_bias=bias, mlp_bias=bool(c.get("mlp_bias")))


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    return {"hidden_act": "relu2", **gguf_layer_norms(get, "norm_eps")}


FAMILY = family(
    "Nemotron",
    NemotronConfig,
    Nemotron,
    read,
    gguf={"nemotron": Gguf("nemotron", GGUF_TENSORS, _gguf_options, norm_offset=1.0)},
)
