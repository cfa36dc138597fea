"""BLOOM (Scao et al. 2022): ALiBi, a norm after the embeddings, queries, keys and values fused by head.

A prefix's slots have no position bias: every query sees them as near as its own token. Only slots with distances, which
PEFT's have, fade as tokens do (see `models.prefix.Prefix`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.family import Family, Module
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.gpt_neox import attention_out, fused_by_head, fused_modules
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.model_config import Alibi, ModelConfig
from prefix_jax.models.parameters import Names, Tree, affine, embedding, head, norm, stacked


@dataclass(frozen=True, kw_only=True)
class BloomConfig(ModelConfig):
    family: ClassVar[str] = "bloom"
    positions: ClassVar[str] = "relative"

    @property
    def alibi(self) -> Alibi:
        return Alibi(slopes_of(self.heads))


def slopes_of(heads: int) -> tuple[float, ...]:
    """Returns a geometric series that begins and ends with 2^(-8/n), n the largest power of two that `heads` reaches;
    further heads have every other slope of the series for 2n.
    """
    most = 2 ** math.floor(math.log2(heads))

    def series(count: int) -> list[float]:
        return [2.0 ** (-8 * (i + 1) / count) for i in range(count)]

    return (*series(most), *series(2 * most)[::2][: heads - most])


class Bloom(DecoderOnly):
    model_config: BloomConfig

    def setup(self) -> None:
        super().setup()
        self.embedding_norm = self.make_norm()

    def make_block(self) -> nn.Module:
        s = self.model_config
        scale = attention_scale(s.head_dim)
        return Block(
            attention=SelfAttention(s.kv_heads, 1, s.head_dim, scale, bias=True, out_bias=True),
            mlp=MLP(s.d_ff, gelu, bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
        )

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.model_config.norm_epsilon)

    def embed(self, tokens: Array, positions: Array | None, put: Callable[[Array], Array]) -> Array:
        return self.embedding_norm(self.embedding(tokens, positions, put))


def read(c: dict[str, Any]) -> BloomConfig:
    refuse(c, "apply_residual_connection_post_layernorm", (False,))
    d_model = c.get("n_embed") or c["hidden_size"]
    heads = c.get("n_head") or c["num_attention_heads"]
    return BloomConfig(
        vocab_size=c["vocab_size"],
        layers=c.get("n_layer") or c["num_hidden_layers"],
        d_model=d_model,
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=4 * d_model,
        norm_epsilon=c.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 2),
        bos_id=first_id(c.get("bos_token_id"), 1),
        pad_id=first_id(c.get("pad_token_id"), 3),
    )


def parameters(model_config: BloomConfig, names: Names) -> Tree:
    e, f = model_config.d_model, model_config.d_ff

    def layer(i: int) -> Tree:
        path = f"h.{i}"
        return {
            "attention_norm": norm(names, f"{path}.input_layernorm", e),
            "attention": {
                "qkv": fused_by_head(model_config, names, f"{path}.self_attention.query_key_value", True),
                "out": attention_out(model_config, names, f"{path}.self_attention.dense", True),
            },
            "mlp_norm": norm(names, f"{path}.post_attention_layernorm", e),
            "mlp": {
                "up": affine(names, f"{path}.mlp.dense_h_to_4h", e, f),
                "down": affine(names, f"{path}.mlp.dense_4h_to_h", f, e),
            },
        }

    return {
        "embedding": {"tokens": embedding(model_config, names, "word_embeddings.weight")},
        "embedding_norm": norm(names, "word_embeddings_layernorm", e),
        "layers": stacked(model_config.layers, layer),
        "final_norm": norm(names, "ln_f", e),
        **head(model_config, names, "word_embeddings.weight"),
    }


def modules(model_config: BloomConfig) -> list[Module]:
    inner = ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    return fused_modules(model_config, "transformer.h.{}", *inner)


def sizes(layers: int, width: int, heads: int) -> dict[str, Any]:
    return dict(model_type="bloom", n_layer=layers, hidden_size=width, n_head=heads, vocab_size=250880)


FAMILY = Family(
    title="BLOOM",
    model_config=BloomConfig,
    network=Bloom,
    readers={"bloom": read},
    parameters=parameters,
    modules=modules,
    anchor="word_embeddings_layernorm.weight",
    base="transformer.",
    known={
        "bloom-560m": sizes(24, 1024, 16),
        "bloom-1b1": sizes(24, 1536, 16),
        "bloom-1b7": sizes(24, 2048, 16),
        "bloom-3b": sizes(30, 2560, 32),
        "bloom-7b1": sizes(30, 4096, 32),
        "bloom-176b": sizes(70, 14336, 112),
    },
)
