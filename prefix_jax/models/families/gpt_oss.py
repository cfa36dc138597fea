"""gpt-oss (OpenAI 2025): mixtures of experts with biases and clamped gates, attention sinks, and a sliding window in
every second layer.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefix_jax.models.experts import Experts
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.mixture import MixtureConfig, MixtureDecoder, kernels
from prefix_jax.models.families.rotary_decoder import Tensors, family, fields, sizes
from prefix_jax.models.layers import SinkAttention
from prefix_jax.models.leaves import Leaf, merge, mxfp4, narrowed, split, transpose
from prefix_jax.models.parameters import Names, Tree, linear

_YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GptOssConfig(MixtureConfig):
    family: ClassVar[str] = "gpt_oss"
    tensors: ClassVar[Tensors] = Tensors(mlp={}, sinks="self_attn.sinks")
    gate_slope: float
    gate_limit: float


class GptOss(MixtureDecoder):
    model_config: GptOssConfig
    attention = SinkAttention

    def make_mlp(self) -> nn.Module:
        s = self.model_config

        def gated(gate: Float[Array, "N F"], up: Float[Array, "N F"]) -> Float[Array, "N F"]:
            gate, up = jnp.minimum(gate, s.gate_limit), jnp.clip(up, -s.gate_limit, s.gate_limit)
            return gate * jax.nn.sigmoid(gate * s.gate_slope) * (up + 1)

        return Experts(s.experts, s.chosen, s.d_ff, gated, bias=True, sharder=self.sharder)


def read(c: dict[str, Any]) -> GptOssConfig:
    refuse(c, "hidden_act", ("silu",))
    layers, bias = c["num_hidden_layers"], bool(c.get("attention_bias", True))
    kinds = c.get("layer_types") or [("sliding", "full")[i % 2] + "_attention" for i in range(layers)]
    rope = {} if c.get("rope_scaling") or c.get("rope_parameters") else {"rope_scaling": _YARN}
    shape = fields(
        {**c, **rope}, rms_norm_eps=1e-5, head_dim=64, num_key_value_heads=8, max_position_embeddings=131072,
        rope_theta=150000.0,
    )  # fmt: skip
    return GptOssConfig(
        **shape,
        qkv_bias=bias,
        out_bias=bias,
        sliding_window=c.get("sliding_window", 128),
        sliding=tuple(kind == "sliding_attention" for kind in kinds),
        experts=c.get("num_local_experts") or c.get("num_experts") or 128,
        chosen=c.get("num_experts_per_tok") or c.get("experts_per_token") or 4,
        gate_slope=float(c.get("swiglu_alpha", 1.702)),
        gate_limit=float(c.get("swiglu_limit", 7.0)),
    )


def experts(s: GptOssConfig, names: Names, path: str) -> Tree:
    """Returns a layer's router and experts; gate and up are every other column of one matrix."""
    e, f, x, base = s.d_model, s.d_ff, s.experts, f"{path}mlp.experts"
    both, down = _matrix(names, f"{base}.gate_up_proj", x, e, 2 * f), _matrix(names, f"{base}.down_proj", x, f, e)
    tree = kernels([_every_other(both, 0), _every_other(both, 1), down])
    biases = names(f"{base}.gate_up_proj_bias", x, 2 * f)
    tree["experts_gate"]["bias"], tree["experts_up"]["bias"] = _every_other(biases, 0), _every_other(biases, 1)
    tree["experts_down"]["bias"] = names(f"{base}.down_proj_bias", x, e)
    router = f"{path}mlp.router"
    return {
        "router": {"weight": linear(names(f"{router}.weight", x, e)), "bias": names(f"{router}.bias", x)},
        **tree,
    }


def _matrix(names: Names, name: str, experts: int, inputs: int, outputs: int) -> Leaf:
    """Returns `[X, inputs, outputs]`; released files hold it transposed, in blocks of 4-bit floats."""
    if f"{name}_blocks" not in names:
        return names(name, experts, inputs, outputs)
    blocks = names.packed(f"{name}_blocks", experts, outputs, inputs // 32, 16)
    scales = names.packed(f"{name}_scales", experts, outputs, inputs // 32)
    return transpose(mxfp4(blocks, scales), (0, 2, 1))


def _every_other(leaf: Leaf, first: int) -> Leaf:
    """Returns every second number of the last axis."""
    axis = len(leaf.shape) - 1
    pairs = split(leaf, axis, (leaf.shape[axis] // 2, 2))
    return merge(narrowed(pairs, axis + 1, first, first + 1), axis, 2)


def _sizes(layers: int, count: int) -> dict[str, Any]:
    return sizes("gpt_oss", layers, 2880, 64, 8, 2880, 201088, num_local_experts=count)


_FAMILY = family(
    "gpt-oss",
    GptOssConfig,
    GptOss,
    read,
    known={"gpt-oss-20b": _sizes(24, 32), "gpt-oss-120b": _sizes(36, 128)},
    inner=experts,
)
FAMILY = replace(_FAMILY, quantised=("mxfp4",))
