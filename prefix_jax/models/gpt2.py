"""GPT-2 (Radford et al. 2019): learned positions, layer norm with bias, GELU in its tanh form."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array

from prefix_jax.models.attention import Source, attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.injected import Adapter
from prefix_jax.models.layers import MLP, LayerNorm, SelfAttention, past_sources
from prefix_jax.models.prefix import KeyValues
from prefix_jax.models.specs import GPT2Spec


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


class Block(nn.Module):
    spec: GPT2Spec

    @nn.compact
    def __call__(self, x: Array, shared: Any, sites: tuple[Source | None, ...], past: Any) -> tuple[Array, KeyValues]:
        s = self.spec
        mask, sees, past_masks, _ = shared
        prefixes = tuple(p._replace(mask=sees) for p in sites if p is not None)
        sources = prefixes + past_sources(past, past_masks, (None,) * len(past_masks))
        normed = LayerNorm(s.norm_epsilon, name="attention_norm")(x)
        attended, key_values = SelfAttention(
            s.kv_heads, 1, s.head_dim, attention_scale(s.head_dim), bias=True, out_bias=True, name="attention"
        )(normed, mask, None, lambda h: h, sources)
        x = x + Adapter(name="attention_adapter")(attended)
        normed = LayerNorm(s.norm_epsilon, name="mlp_norm")(x)
        inner = MLP(s.d_ff, gelu, bias=True, name="mlp")(normed)
        return x + Adapter(name="mlp_adapter")(inner), key_values


class GPT2(DecoderOnly):
    spec: GPT2Spec

    def make_block(self) -> nn.Module:
        return Block(self.spec)

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.spec.norm_epsilon)

    def embed(self, tokens: Array, positions: Array, put: Callable[[Array], Array]) -> Array:
        return self.embedding(tokens, positions, put)

    def shared(self, positions: Array) -> None:
        return None
