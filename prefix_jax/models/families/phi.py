"""Phi-1, 1.5 and 2 (Li et al. 2023): attention and MLP side by side, biases everywhere, half of a head rotated."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import LayerNormDecoder, RotaryConfig, Tensors, family, fields, sizes
from prefix_jax.models.layers import LayerNormAttention


@dataclass(frozen=True, kw_only=True)
class PhiConfig(RotaryConfig):
    family: ClassVar[str] = "phi"
    head_bias: ClassVar[bool] = True
    tensors: ClassVar[Tensors] = Tensors(
        norms={"attention_norm": "input_layernorm"},
        mlp={"up": "mlp.fc1", "down": "mlp.fc2"},
        out="self_attn.dense",
        final="final_layernorm",
        norm_bias=True,
        head_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
    )
    # Whether queries and keys are normalised.
    qk_norm: bool = False

    @property
    def normed_heads(self) -> bool:
        return self.qk_norm


class Phi(LayerNormDecoder):
    model_config: PhiConfig
    activation = staticmethod(gelu)
    attention = LayerNormAttention


def read(c: dict[str, Any]) -> PhiConfig:
    refuse(c, "hidden_act", ("gelu_new", "gelu_pytorch_tanh"))
    shape = fields(c, "layer_norm_eps", layer_norm_eps=1e-5, partial_rotary_factor=0.5, bos_token_id=1, eos_token_id=2)
    return PhiConfig(
        **shape, qkv_bias=True, out_bias=True, mlp_bias=True, parallel=True, qk_norm=bool(c.get("qk_layernorm"))
    )


FAMILY = family(
    "Phi",
    PhiConfig,
    Phi,
    read,
    known={
        "phi-1.5": sizes("phi", 24, 2048, 32, 32, 8192, 51200),
        "phi-2": sizes("phi", 32, 2560, 32, 32, 10240, 51200, partial_rotary_factor=0.4),
    },
)
