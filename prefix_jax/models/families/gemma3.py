"""Gemma 3, text (Gemma Team 2025): five sliding layers to one full layer, each kind with its own rotary positions;
norms before and after each sublayer, and of queries and keys; GELU gates; scaled embeddings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.family import GGUF_TENSORS, Family, Gguf
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse, rotary_scaling
from prefix_jax.models.families.llama import attention_kernels, gated_mlp, modules
from prefix_jax.models.layers import Block, GatedMLP, RMSNorm, SelfAttention
from prefix_jax.models.leaves import shifted
from prefix_jax.models.model_config import LayerKind, ModelConfig, Rotary
from prefix_jax.models.parameters import Names, Tree, embedding, head, stacked

_PERIOD = 6


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(ModelConfig):
    family: ClassVar[str] = "gemma3"
    positions: ClassVar[str] = "rotary"
    max_positions: int
    sliding_window: int
    # Whether each layer has the sliding window.
    sliding: tuple[bool, ...]
    rope_base: float
    rope_scaling: tuple | None
    sliding_rope_base: float
    # Logits are multiplied by the inverse square root of this number.
    query_scale: float

    @property
    def context_length(self) -> int:
        return self.max_positions

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        near = LayerKind(self.sliding_window, Rotary(self.sliding_rope_base))
        far = LayerKind(None, Rotary(self.rope_base, self.rope_scaling))
        return tuple(near if here else far for here in self.sliding)


class Gemma3(DecoderOnly):
    model_config: Gemma3Config

    @property
    def embedding_scale(self) -> float:
        return self.model_config.d_model**0.5

    def make_block(self) -> nn.Module:
        s = self.model_config
        groups, scale = s.heads // s.kv_heads, s.query_scale**-0.5
        return Block(
            attention=SelfAttention(s.kv_heads, groups, s.head_dim, scale, head_norm=s.norm_epsilon),
            mlp=GatedMLP(s.d_ff, gelu),
            norm=partial(RMSNorm, s.norm_epsilon),
            norms="both",
        )

    def make_norm(self) -> nn.Module:
        return RMSNorm(self.model_config.norm_epsilon)


def read(c: dict[str, Any]) -> Gemma3Config:
    refuse(c, "hidden_activation", ("gelu_pytorch_tanh",))
    for option in ("attn_logit_softcapping", "final_logit_softcapping"):
        refuse(c, option, (None,))
    for option in ("attention_bias", "use_bidirectional_attention"):
        refuse(c, option, (False, None))
    layers = c["num_hidden_layers"]
    period = c.get("sliding_window_pattern") or c.get("_sliding_window_pattern") or _PERIOD
    whole = [("sliding", "full")[(i + 1) % period == 0] + "_attention" for i in range(layers)]
    far, near = _rope(c)
    return Gemma3Config(
        vocab_size=c.get("vocab_size", 262208),
        layers=layers,
        d_model=c["hidden_size"],
        heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"],
        head_dim=c.get("head_dim", 256),
        d_ff=c["intermediate_size"],
        norm_epsilon=c.get("rms_norm_eps", 1e-6),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 1),
        bos_id=first_id(c.get("bos_token_id"), 2),
        pad_id=first_id(c.get("pad_token_id"), 0),
        max_positions=c.get("max_position_embeddings", 131072),
        sliding_window=c.get("sliding_window", 4096),
        sliding=tuple(kind == "sliding_attention" for kind in c.get("layer_types") or whole),
        rope_base=float(far.get("rope_theta", 1e6)),
        rope_scaling=rotary_scaling(far, c.get("max_position_embeddings", 131072)),
        sliding_rope_base=float(near.get("rope_theta", 1e4)),
        query_scale=float(c.get("query_pre_attn_scalar", 256)),
    )


def _rope(c: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the rotary parameters of full and of sliding layers, in the form of transformers 4 or 5."""
    kinds = c.get("rope_parameters") or {}
    if "full_attention" in kinds:
        return dict(kinds["full_attention"]), dict(kinds.get("sliding_attention") or {})
    far = {"rope_theta": c.get("rope_theta", 1e6), **(c.get("rope_scaling") or {})}
    return far, {"rope_theta": c.get("rope_local_base_freq", 1e4)}


def parameters(model_config: Gemma3Config, names: Names) -> Tree:
    e, d = model_config.d_model, model_config.head_dim

    def norm(name: str, width: int = e) -> Tree:
        """Returns the scale of a norm: 1 + its stored weight."""
        return {"scale": shifted(names(f"{name}.weight", width), 1.0)}

    def layer(i: int) -> Tree:
        path = f"layers.{i}"
        heads = {f"{part}_norm": norm(f"{path}.self_attn.{part[0]}_norm", d) for part in ("query", "key")}
        return {
            "attention_norm": norm(f"{path}.input_layernorm"),
            "attention": {**attention_kernels(model_config, names, f"{path}.self_attn"), **heads},
            "attention_post_norm": norm(f"{path}.post_attention_layernorm"),
            "mlp_norm": norm(f"{path}.pre_feedforward_layernorm"),
            "mlp": gated_mlp(model_config, names, f"{path}.mlp"),
            "mlp_post_norm": norm(f"{path}.post_feedforward_layernorm"),
        }

    return {
        "embedding": {"tokens": embedding(model_config, names, "embed_tokens.weight")},
        "layers": stacked(model_config.layers, layer),
        "final_norm": norm("norm"),
        **head(model_config, names, "embed_tokens.weight"),
    }


def sizes(
    layers: int, width: int, heads: int, kv_heads: int, inner: int, window: int, **options: Any
) -> dict[str, Any]:
    shape = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv_heads)
    return {
        "model_type": "gemma3_text", **shape, "intermediate_size": inner, "sliding_window": window,
        "vocab_size": 262144, **options,
    }  # fmt: skip


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
FAMILY = Family(
    title="Gemma 3",
    model_config=Gemma3Config,
    network=Gemma3,
    readers={"gemma3_text": read},
    parameters=parameters,
    modules=modules,
    anchor="embed_tokens.weight",
    base="model.",
    known={
        "gemma-3-270m": sizes(18, 640, 4, 1, 2048, 512, max_position_embeddings=32768),
        "gemma-3-1b": sizes(26, 1152, 4, 1, 6912, 512, max_position_embeddings=32768),
        "gemma-3-4b": sizes(34, 2560, 8, 4, 10240, 1024, **_LINEAR),
        "gemma-3-12b": sizes(48, 3840, 16, 8, 15360, 1024, **_LINEAR),
        "gemma-3-27b": sizes(62, 5376, 32, 16, 21504, 1024, head_dim=128, query_pre_attn_scalar=168, **_LINEAR),
    },
    gguf={"gemma3": Gguf("gemma3_text", _GGUF, _gguf_options, norm_offset=1.0)},
)
