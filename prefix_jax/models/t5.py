"""T5 1.0 (ReLU, tied), 1.1 and FLAN (gated, untied): Raffel et al. 2020.

Relative position bias is computed once, outside the layers, between the columns of real tokens only; prefix columns
have none, and positions are not used.
"""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prefix_jax.models.encoder_decoder import EncoderDecoder, Side
from prefix_jax.models.gpt2 import gelu
from prefix_jax.models.layers import MLP, Block, CrossAttention, GatedMLP, RMSNorm, SelfAttention
from prefix_jax.models.specs import T5Spec

_ACTIVATIONS = {"relu": jax.nn.relu, "gelu": gelu, "silu": jax.nn.silu}


def relative_buckets(distance: Int[Array, "T S"], bidirectional: bool, buckets: int, furthest: int) -> Array:
    """Returns the bucket of each distance (key column minus query column): exact when near, logarithmic when far."""
    side = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        side = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / jnp.log(furthest / exact)
    far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return side + jnp.where(distance < exact, distance, far)


class T5Side(Side):
    spec: T5Spec

    def make_block(self) -> nn.Module:
        s = self.spec
        return Block(
            attention=SelfAttention(s.heads, 1, s.head_dim, scale=1.0),  # T5 does not scale its logits
            mlp=(GatedMLP if s.gated else MLP)(s.d_ff, _ACTIVATIONS[s.activation]),
            norm=partial(RMSNorm, s.norm_epsilon),
            cross=CrossAttention(s.heads, s.head_dim, s.d_model) if self.decoder else None,
        )

    def setup(self) -> None:
        super().setup()
        s = self.spec
        self.relative_bias = self.param("relative_bias", nn.initializers.normal(0.1), (s.buckets, s.heads))
        self.final_norm = RMSNorm(s.norm_epsilon)

    def bias(self, queries: Int[Array, "T"], keys: Int[Array, "S"]) -> Float[Array, "H 1 T S"]:
        distance = keys[None, :] - queries[:, None]
        buckets = relative_buckets(distance, not self.decoder, self.spec.buckets, self.spec.max_distance)
        return jnp.moveaxis(jnp.take(self.relative_bias.astype(jnp.float32), buckets, axis=0), -1, 0)[:, None]

    def end(self, x: Float[Array, "*batch T E"]) -> Float[Array, "*batch T E"]:
        return self.final_norm(x)


class T5(EncoderDecoder):
    spec: T5Spec
    side: ClassVar[type[Side]] = T5Side

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        if self.spec.scale_outputs:
            hidden = hidden * jnp.asarray(self.spec.d_model**-0.5, hidden.dtype)
        return super().logits(hidden)
