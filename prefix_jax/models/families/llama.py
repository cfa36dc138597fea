"""The Llama family (Touvron et al. 2023): RMS norm, rotary positions, grouped queries, gated SiLU. Also Mistral,
Qwen2, SmolLM2.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.family import GGUF_TENSORS, Family, Gguf, Module, module
from prefix_jax.models.families.hf_config import (
    end_ids,
    first_id,
    refuse,
    rope_parameters,
    rotary_context,
    rotary_scaling,
)
from prefix_jax.models.layers import Block, GatedMLP, RMSNorm, SelfAttention
from prefix_jax.models.leaves import Leaf, concatenate, split, transpose
from prefix_jax.models.model_config import LayerKind, ModelConfig, Rotary
from prefix_jax.models.parameters import Names, Tree, embedding, head, linear, stacked

_NORMED = ("query", "key")


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    family: ClassVar[str] = "llama"
    hashed_as: ClassVar[str] = "LlamaSpec"
    positions: ClassVar[str] = "rotary"
    # Whether queries and keys are normalised.
    head_norm: ClassVar[bool] = False
    max_positions: int
    rope_base: float
    rope_scaling: tuple | None  # as in `Rotary`
    qkv_bias: bool
    out_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None
    # Whether each layer has the sliding window; empty: all.
    sliding: tuple[bool, ...] = ()

    @property
    def context_length(self) -> int:
        return self.max_positions

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        rotary = Rotary(self.rope_base, self.rope_scaling)
        sliding = self.sliding or (True,) * self.layers
        return tuple(LayerKind(self.sliding_window if here else None, rotary) for here in sliding)


class Llama(DecoderOnly):
    model_config: LlamaConfig

    def make_block(self) -> nn.Module:
        s = self.model_config
        groups, scale = s.heads // s.kv_heads, attention_scale(s.head_dim)
        return Block(
            attention=SelfAttention(
                s.kv_heads,
                groups,
                s.head_dim,
                scale,
                bias=s.qkv_bias,
                out_bias=s.out_bias,
                head_norm=s.norm_epsilon if s.head_norm else None,
            ),
            mlp=GatedMLP(s.d_ff, jax.nn.silu, s.mlp_bias),
            norm=partial(RMSNorm, s.norm_epsilon),
        )

    def make_norm(self) -> nn.Module:
        return RMSNorm(self.model_config.norm_epsilon)


def read(c: dict[str, Any]) -> LlamaConfig:
    refuse(c, "hidden_act", ("silu",))
    kind = c["model_type"]
    # Only transformers' Llama reads the options; its attention_bias is that of the output too.
    if kind == "mistral":
        refuse(c, "attention_bias", (False,))
    if kind != "llama":
        refuse(c, "mlp_bias", (False,))
    bias = kind == "llama" and bool(c.get("attention_bias"))
    biases: dict[str, Any] = dict(qkv_bias=bias or kind == "qwen2", out_bias=bias, mlp_bias=bool(c.get("mlp_bias")))
    window, sliding = windows(c)
    return LlamaConfig(**sizes_of(c), **biases, sliding_window=window, sliding=sliding)


def sizes_of(c: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `LlamaConfig` that `config.json` spells the same way for all Llama-like families."""
    heads, rope = c["num_attention_heads"], rope_parameters(c)
    positions = c.get("max_position_embeddings", 2048)
    return dict(
        vocab_size=c["vocab_size"],
        layers=c["num_hidden_layers"],
        d_model=c["hidden_size"],
        heads=heads,
        kv_heads=c.get("num_key_value_heads") or heads,
        head_dim=c.get("head_dim") or c["hidden_size"] // heads,
        d_ff=c["intermediate_size"],
        norm_epsilon=c.get("rms_norm_eps", 1e-6),
        tie_embeddings=c.get("tie_word_embeddings", False),
        **end_ids(c, 2),
        bos_id=first_id(c.get("bos_token_id")),
        pad_id=first_id(c.get("pad_token_id"), 0),
        max_positions=rotary_context(rope, positions),
        rope_base=float(rope["rope_theta"]),
        rope_scaling=rotary_scaling(rope, positions),
    )


def windows(c: dict[str, Any]) -> tuple[int | None, tuple[bool, ...]]:
    """Returns the sliding window and whether each layer has it (empty: all); None if no layer has one."""
    qwen = c["model_type"].startswith("qwen")
    # transformers' Llama has no window, regardless of its configuration.
    if c["model_type"] == "llama" or (qwen and not c.get("use_sliding_window")):
        return None, ()
    window, layers = c.get("sliding_window", 4096), c["num_hidden_layers"]
    whole = c.get("max_window_layers", 28) if qwen else 0
    kinds = c.get("layer_types") or ["full_attention"] * min(whole, layers) + ["sliding_attention"] * (layers - whole)
    sliding = tuple(kind == "sliding_attention" for kind in kinds)
    if window is None or not any(sliding):
        return None, ()
    return window, () if all(sliding) else sliding


def parameters(model_config: LlamaConfig, names: Names) -> Tree:
    e = model_config.d_model

    def layer(i: int) -> Tree:
        return {
            "attention_norm": {"scale": names(f"layers.{i}.input_layernorm.weight", e)},
            "attention": {
                **attention_kernels(
                    model_config, names, f"layers.{i}.self_attn", model_config.qkv_bias, model_config.out_bias
                ),
                **_head_norms(model_config, names, f"layers.{i}.self_attn"),
            },
            "mlp_norm": {"scale": names(f"layers.{i}.post_attention_layernorm.weight", e)},
            "mlp": gated_mlp(model_config, names, f"layers.{i}.mlp", model_config.mlp_bias),
        }

    return {
        "embedding": {"tokens": embedding(model_config, names, "embed_tokens.weight")},
        "layers": stacked(model_config.layers, layer),
        "final_norm": {"scale": names("norm.weight", e)},
        **head(model_config, names, "embed_tokens.weight"),
    }


def attention_kernels(
    model_config: ModelConfig, names: Names, path: str, bias: bool = False, out_bias: bool = False
) -> Tree:
    """Returns the projections of grouped queries from q_proj, k_proj, v_proj and o_proj."""
    e, k, d = model_config.d_model, model_config.kv_heads, model_config.head_dim
    g = model_config.heads // k

    def qkv(kind: str, *inner: int) -> Leaf:
        """Returns [K, G+2, D, ...]: each key-value head's queries, key and value."""
        parts = [("q", g), ("k", 1), ("v", 1)]
        leaves = [split(names(f"{path}.{p}_proj.{kind}", k * n * d, *inner), 0, (k, n, d)) for p, n in parts]
        return concatenate(leaves, 1)

    out = split(names(f"{path}.o_proj.weight", e, k * g * d), 1, (k, g, d))
    return {
        "qkv": {"kernel": transpose(qkv("weight", e), (3, 0, 1, 2)), **({"bias": qkv("bias")} if bias else {})},
        "out": {
            "kernel": transpose(out, (1, 2, 3, 0)),
            **({"bias": names(f"{path}.o_proj.bias", e)} if out_bias else {}),
        },
    }


def gated_mlp(model_config: ModelConfig, names: Names, path: str, bias: bool = False) -> Tree:
    """Returns the projections of a gated MLP from gate_proj, up_proj and down_proj."""
    e, f = model_config.d_model, model_config.d_ff
    shapes = {"gate": (f, e), "up": (f, e), "down": (e, f)}
    return {
        name: {
            "kernel": linear(names(f"{path}.{name}_proj.weight", *shape)),
            **({"bias": names(f"{path}.{name}_proj.bias", shape[0])} if bias else {}),
        }
        for name, shape in shapes.items()
    }


def _head_norms(model_config: LlamaConfig, names: Names, path: str) -> Tree:
    if not model_config.head_norm:
        return {}
    return {
        f"{part}_norm": {"scale": names(f"{path}.{part[0]}_norm.weight", model_config.head_dim)} for part in _NORMED
    }


def modules(model_config: ModelConfig) -> list[Module]:
    e, f, k, d = model_config.d_model, model_config.d_ff, model_config.kv_heads, model_config.head_dim
    stack, base, one = (("layers",), model_config.layers), "model.layers.{}", (k, 1, d)
    return [
        module(stack, "attention/qkv/query", f"{base}.self_attn.q_proj", e, (k, model_config.heads // k, d)),
        module(stack, "attention/qkv/key", f"{base}.self_attn.k_proj", e, one),
        module(stack, "attention/qkv/value", f"{base}.self_attn.v_proj", e, one),
        module(stack, "attention/out", f"{base}.self_attn.o_proj", model_config.heads * d, (e,)),
        module(stack, "mlp/gate", f"{base}.mlp.gate_proj", e, (f,)),
        module(stack, "mlp/up", f"{base}.mlp.up_proj", e, (f,)),
        module(stack, "mlp/down", f"{base}.mlp.down_proj", f, (e,)),
    ]


def sizes(
    layers: int, width: int, heads: int, kv_heads: int, inner: int, vocabulary: int = 32000, window: int = 4096
) -> dict[str, Any]:
    sizes = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner)
    more = dict(num_key_value_heads=kv_heads, vocab_size=vocabulary, max_position_embeddings=window)
    return {"model_type": "llama", **sizes, **more}


FAMILY = Family(
    title="Llama",
    model_config=LlamaConfig,
    network=Llama,
    readers={"llama": read, "mistral": read, "qwen2": read},
    parameters=parameters,
    modules=modules,
    anchor="embed_tokens.weight",
    base="model.",
    known={
        "smollm2-135m": {
            **sizes(30, 576, 9, 3, 1536, vocabulary=49152, window=8192),
            "tie_word_embeddings": True,
            "rope_theta": 100000.0,
        },
        "llama-2-7b": sizes(32, 4096, 32, 32, 11008),
        "llama-2-13b": sizes(40, 5120, 40, 40, 13824),
        "llama-2-70b": sizes(80, 8192, 64, 8, 28672),
        "llama-3-8b": sizes(32, 4096, 32, 8, 14336, vocabulary=128256, window=8192),
    },
    gguf={
        "llama": Gguf("llama", GGUF_TENSORS, permuted=True),
        "qwen2": Gguf("qwen2", GGUF_TENSORS),
    },
    adapters=("model.", "LlamaForCausalLM", "llama"),
)
