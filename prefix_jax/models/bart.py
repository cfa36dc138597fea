"""BART (Lewis et al. 2020): learned positions, a norm after each sublayer, biases everywhere."""

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.encoder_decoder import EncoderDecoder, Side
from prefix_jax.models.layers import MLP, Block, CrossAttention, LayerNorm, SelfAttention
from prefix_jax.models.specs import BartSpec

# The first rows of the tables of positions are never read: they stood for padding once.
UNUSED_POSITIONS = 2


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {"gelu": gelu, "relu": jax.nn.relu}


class Positions(nn.Module):
    """Adds learned positions to embeddings, and takes their norm."""

    spec: BartSpec

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T E"], positions: Array) -> Float[Array, "*batch T E"]:
        rows = (self.spec.max_positions + UNUSED_POSITIONS, self.spec.d_model)
        table = self.param("table", nn.initializers.normal(0.02), rows)
        moved = x + jnp.take(table, positions + UNUSED_POSITIONS, axis=0).astype(x.dtype)
        return LayerNorm(self.spec.norm_epsilon, name="norm")(moved)


class BartSide(Side):
    spec: BartSpec

    def make_block(self) -> nn.Module:
        s, scale = self.spec, attention_scale(self.spec.head_dim)
        cross = CrossAttention(s.heads, s.head_dim, s.d_model, scale, bias=True) if self.decoder else None
        return Block(
            attention=SelfAttention(s.heads, 1, s.head_dim, scale, bias=True, out_bias=True),
            mlp=MLP(s.d_ff if self.decoder else s.encoder_d_ff, ACTIVATIONS[s.activation], bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
            cross=cross,
            norms="after",
        )

    def setup(self) -> None:
        super().setup()
        self.positions = Positions(self.spec)

    def begin(self, x: Float[Array, "*batch T E"], positions: Array) -> Float[Array, "*batch T E"]:
        return self.positions(x, positions)


class Bart(EncoderDecoder):
    spec: BartSpec
    side: ClassVar[type[Side]] = BartSide
    biases: ClassVar[bool] = True

    @property
    def embedding_scale(self) -> float:
        return self.spec.d_model**0.5 if self.spec.scale_embeddings else 1.0

    def setup(self) -> None:
        super().setup()
        self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (self.spec.vocab_size,))

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        return super().logits(hidden) + self.logits_bias.astype(jnp.float32)
