"""GPT-2 (Radford et al. 2019): learned positions, layer norm with bias, GELU in its tanh form."""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.layers import MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.specs import GPT2Spec


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


class GPT2(DecoderOnly):
    spec: GPT2Spec

    def make_block(self) -> nn.Module:
        s = self.spec
        scale = attention_scale(s.head_dim)
        return Block(
            attention=SelfAttention(s.kv_heads, 1, s.head_dim, scale, bias=True, out_bias=True),
            mlp=MLP(s.d_ff, gelu, bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
        )

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.spec.norm_epsilon)
