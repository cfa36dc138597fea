"""The Llama family (Touvron et al. 2023): RMS norm, rotary positions, grouped queries, gated SiLU. Also Mistral,
Qwen2, SmolLM2.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array

from prefix_jax.models.attention import Source, attention_scale, rotary_angles, rotate
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.injected import Adapter
from prefix_jax.models.layers import GatedMLP, RMSNorm, SelfAttention, past_sources
from prefix_jax.models.prefix import KeyValues
from prefix_jax.models.specs import LlamaSpec


class Block(nn.Module):
    spec: LlamaSpec

    @nn.compact
    def __call__(self, x: Array, shared: Any, sites: tuple[Source | None, ...], past: Any) -> tuple[Array, KeyValues]:
        s = self.spec
        mask, sees, past_masks, (cos, sin) = shared
        prefixes = tuple(p._replace(mask=sees) for p in sites if p is not None)
        sources = prefixes + past_sources(past, past_masks, (None,) * len(past_masks))

        def turn(h: Array) -> Array:  # [*batch, K, G, T, D] or [*batch, K, T, D]
            lead = (1,) * (h.ndim - x.ndim)
            shape = cos.shape[:-2] + lead + cos.shape[-2:]
            return rotate(h, (cos.reshape(shape), sin.reshape(shape)))

        attended, key_values = SelfAttention(
            s.kv_heads,
            s.heads // s.kv_heads,
            s.head_dim,
            attention_scale(s.head_dim),
            bias=s.qkv_bias,
            name="attention",
        )(RMSNorm(s.norm_epsilon, name="attention_norm")(x), mask, None, turn, sources)
        x = x + Adapter(name="attention_adapter")(attended)
        normed = RMSNorm(s.norm_epsilon, name="mlp_norm")(x)
        inner = GatedMLP(s.d_ff, jax.nn.silu, name="mlp")(normed)
        return x + Adapter(name="mlp_adapter")(inner), key_values


class Llama(DecoderOnly):
    spec: LlamaSpec

    def make_block(self) -> nn.Module:
        return Block(self.spec)

    def make_norm(self) -> nn.Module:
        return RMSNorm(self.spec.norm_epsilon)

    def embed(self, tokens: Array, positions: Array, put: Callable[[Array], Array]) -> Array:
        return put(self.embedding(tokens))

    def shared(self, positions: Array) -> tuple[Array, Array]:
        return rotary_angles(positions, self.spec.head_dim, self.spec.rope_base, self.spec.rope_scaling)
