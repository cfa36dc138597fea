"""Falcon (Almazrouei et al. 2023): queries, keys and values fused by key-value head.

7b has one key-value head and one norm before attention and MLP side by side; 40b ("new decoder architecture") several,
and two norms. RW has ALiBi in place of rotary positions, biases, and an MLP after attention. Its biases are those of
transformers' default attention, rounded to bfloat16 (its eager attention adds them twice). A prefix's slots have no
position bias there unless they have distances, as in `bloom.py`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.bloom import slopes_of
from prefix_jax.models.families.family import Family, Module
from prefix_jax.models.families.gpt_neox import attention_out, fused_by_head, fused_modules
from prefix_jax.models.families.hf_config import (
    end_ids,
    first_id,
    refuse,
    rope_parameters,
    rotary_context,
    rotary_scaling,
)
from prefix_jax.models.layers import ACTIVATIONS, MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.model_config import Alibi, LayerKind, ModelConfig, Rotary
from prefix_jax.models.parameters import Names, Tree, embedding, head, linear, norm, stacked


@dataclass(frozen=True, kw_only=True)
class FalconConfig(ModelConfig):
    family: ClassVar[str] = "falcon"
    positions: ClassVar[str] = "rotary"
    max_positions: int
    rope_base: float
    rope_scaling: tuple | None  # as in `Rotary`
    # Whether attention has linear biases in place of rotary positions.
    linear_biases: bool
    activation: str
    biases: bool
    # As in `Block`.
    norms: str
    # Whether transformers' cache repeats keys and values for each query.
    repeats: bool

    @property
    def context_length(self) -> int:
        return self.max_positions

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        rotary = None if self.linear_biases else Rotary(self.rope_base, self.rope_scaling)
        return (LayerKind(rotary=rotary),) * self.layers

    @property
    def alibi(self) -> Alibi | None:
        scale = attention_scale(self.head_dim)
        return Alibi(slopes_of(self.heads), scale, rounded=True) if self.linear_biases else None

    @property
    def cached_heads(self) -> int:
        return self.heads if self.repeats else self.kv_heads


class Falcon(DecoderOnly):
    model_config: FalconConfig

    def make_block(self) -> nn.Module:
        s = self.model_config
        groups, scale = s.heads // s.kv_heads, attention_scale(s.head_dim)
        norms: Any = s.norms
        return Block(
            attention=SelfAttention(s.kv_heads, groups, s.head_dim, scale, bias=s.biases, out_bias=s.biases),
            mlp=MLP(s.d_ff, ACTIVATIONS[s.activation], bias=s.biases),
            norm=partial(LayerNorm, s.norm_epsilon),
            norms=norms,
        )

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.model_config.norm_epsilon)


def read(c: dict[str, Any]) -> FalconConfig:
    refuse(c, "activation", ("gelu", *ACTIVATIONS))
    d_model, heads = c.get("n_embed") or c["hidden_size"], c["num_attention_heads"]
    refuse(c, "head_dim", (None, d_model // heads))
    new, positions, rope = bool(c.get("new_decoder_architecture")), c.get("max_position_embeddings", 2048), _rope(c)
    kv_heads = (c.get("num_kv_heads") or heads) if new else 1 if c.get("multi_query", True) else heads
    return FalconConfig(
        vocab_size=c["vocab_size"],
        layers=c["num_hidden_layers"],
        d_model=d_model,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=d_model // heads,
        d_ff=c.get("ffn_hidden_size") or 4 * d_model,
        norm_epsilon=c.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 11),
        bos_id=first_id(c.get("bos_token_id"), 11),
        pad_id=first_id(c.get("pad_token_id"), 0),
        max_positions=rotary_context(rope, positions),
        rope_base=float(rope["rope_theta"]),
        rope_scaling=rotary_scaling(rope, positions),
        linear_biases=bool(c.get("alibi")),
        activation=c.get("activation", "gelu"),
        biases=bool(c.get("bias")),
        norms=_norms(c, new),
        repeats=new,
    )


def _rope(c: dict[str, Any]) -> dict[str, Any]:
    return {"rope_theta": 10000.0} if c.get("alibi") else rope_parameters(c)


def _norms(c: dict[str, Any], new: bool) -> str:
    """Returns where the norms are; what transformers cannot compute either is refused."""
    if new:
        refuse(c, "parallel_attn", (True,))
        refuse(c, "num_ln_in_parallel_attn", (2, 1, None))
        return "parallel" if c.get("num_ln_in_parallel_attn") == 1 else "parallel_two"
    parallel = c.get("parallel_attn", True)
    if parallel:
        refuse(c, "num_ln_in_parallel_attn", (None, 1))
    return "parallel" if parallel else "before"


def parameters(model_config: FalconConfig, names: Names) -> Tree:
    s, e, f = model_config, model_config.d_model, model_config.d_ff
    norms = {
        "parallel": {"attention_norm": "input_layernorm"},
        "parallel_two": {"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"},
        "before": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    }[s.norms]

    def linears(path: str, inputs: int, outputs: int) -> Tree:
        bias = {"bias": names(f"{path}.bias", outputs)} if s.biases else {}
        return {"kernel": linear(names(f"{path}.weight", outputs, inputs)), **bias}

    def layer(i: int) -> Tree:
        path = f"h.{i}"
        return {
            **{ours: norm(names, f"{path}.{theirs}", e) for ours, theirs in norms.items()},
            "attention": {
                "qkv": fused_by_head(s, names, f"{path}.self_attention.query_key_value", s.biases),
                "out": attention_out(s, names, f"{path}.self_attention.dense", s.biases),
            },
            "mlp": {
                "up": linears(f"{path}.mlp.dense_h_to_4h", e, f),
                "down": linears(f"{path}.mlp.dense_4h_to_h", f, e),
            },
        }

    return {
        "embedding": {"tokens": embedding(s, names, "word_embeddings.weight")},
        "layers": stacked(s.layers, layer),
        "final_norm": norm(names, "ln_f", e),
        **head(s, names, "word_embeddings.weight"),
    }


def modules(model_config: FalconConfig) -> list[Module]:
    inner = ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    return fused_modules(model_config, "transformer.h.{}", *inner)


def sizes(layers: int, width: int, heads: int, vocabulary: int = 65024, **more: Any) -> dict[str, Any]:
    shape = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, vocab_size=vocabulary)
    return {"model_type": "falcon", **shape, **more}


_NEW: dict[str, Any] = dict(new_decoder_architecture=True, num_kv_heads=8)
_RW: dict[str, Any] = dict(alibi=True, bias=True, multi_query=False, parallel_attn=False)

FAMILY = Family(
    title="Falcon",
    model_config=FalconConfig,
    network=Falcon,
    readers={"falcon": read},
    parameters=parameters,
    modules=modules,
    anchor="word_embeddings.weight",
    base="transformer.",
    known={
        "falcon-7b": sizes(32, 4544, 71),
        "falcon-40b": sizes(60, 8192, 128, **_NEW),
        "falcon-180b": sizes(80, 14848, 232, **_NEW),
        "falcon-11b": sizes(
            60, 4096, 32, **_NEW, num_ln_in_parallel_attn=1, max_position_embeddings=8192, tie_word_embeddings=False
        ),
        "falcon-rw-1b": sizes(24, 2048, 32, 50304, **_RW),
        "falcon-rw-7b": sizes(36, 4096, 64, 65024, **_RW),
    },
)
