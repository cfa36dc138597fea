"""The Llama family (Touvron et al. 2023): RMS norm, rotary positions, grouped queries, gated SiLU. Also Mistral,
Qwen2, SmolLM2.
"""

from functools import partial

import flax.linen as nn
import jax

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.layers import Block, GatedMLP, RMSNorm, SelfAttention
from prefix_jax.models.specs import LlamaSpec


class Llama(DecoderOnly):
    spec: LlamaSpec

    def make_block(self) -> nn.Module:
        s = self.spec
        groups, scale = s.heads // s.kv_heads, attention_scale(s.head_dim)
        return Block(
            attention=SelfAttention(s.kv_heads, groups, s.head_dim, scale, bias=s.qkv_bias),
            mlp=GatedMLP(s.d_ff, jax.nn.silu),
            norm=partial(RMSNorm, s.norm_epsilon),
        )

    def make_norm(self) -> nn.Module:
        return RMSNorm(self.spec.norm_epsilon)
