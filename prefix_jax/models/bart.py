"""BART (Lewis et al. 2020): learned positions, a norm after each sublayer, biases everywhere."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefix_jax.models.attention import Source, attention_scale
from prefix_jax.models.encoder_decoder import CrossAttention, EncoderDecoder, present
from prefix_jax.models.injected import Adapter
from prefix_jax.models.layers import MLP, LayerNorm, Places, SelfAttention, Stack, past_sources
from prefix_jax.models.masks import shared_by_layers
from prefix_jax.models.prefix import KeyValues, Past, Prefix, offset, site_of
from prefix_jax.models.specs import BartSpec

# The first rows of the tables of positions are never read: they stood for padding once.
UNUSED_POSITIONS = 2


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {"gelu": gelu, "relu": jax.nn.relu}


def _norms(spec: BartSpec, count: int) -> tuple[LayerNorm, ...]:
    return tuple(LayerNorm(spec.norm_epsilon) for _ in range(count))


def _attention(spec: BartSpec) -> SelfAttention:
    return SelfAttention(spec.heads, 1, spec.head_dim, attention_scale(spec.head_dim), bias=True, out_bias=True)


class EncoderBlock(nn.Module):
    spec: BartSpec

    def setup(self) -> None:
        self.attention = _attention(self.spec)
        self.attention_norm, self.mlp_norm = _norms(self.spec, 2)
        self.mlp = MLP(self.spec.encoder_d_ff, ACTIVATIONS[self.spec.activation], bias=True)
        self.attention_adapter, self.mlp_adapter = Adapter(), Adapter()

    def __call__(self, x: Array, shared: Any, sites: tuple[Source | None, ...], past: None) -> tuple[Array, KeyValues]:
        attended, key_values = self.attention(x, shared, None, lambda h: h, present(sites[0]))
        x = self.attention_norm(x + self.attention_adapter(attended))
        return self.mlp_norm(x + self.mlp_adapter(self.mlp(x))), key_values


class DecoderBlock(nn.Module):
    spec: BartSpec

    def setup(self) -> None:
        self.attention = _attention(self.spec)
        self.attention_norm, self.cross_norm, self.mlp_norm = _norms(self.spec, 3)
        self.cross = CrossAttention(self.spec, attention_scale(self.spec.head_dim), bias=True)
        self.mlp = MLP(self.spec.d_ff, ACTIVATIONS[self.spec.activation], bias=True)
        self.attention_adapter, self.cross_adapter, self.mlp_adapter = Adapter(), Adapter(), Adapter()

    def __call__(self, x: Array, shared: Any, sites: tuple[Source | None, ...], past: Any) -> tuple[Array, KeyValues]:
        mask, past_masks, cross_mask, memory = shared
        caches, cross = past
        sources = (*present(sites[0]), *past_sources(caches, past_masks, (None,) * len(past_masks)))
        attended, key_values = self.attention(x, mask, None, lambda h: h, sources)
        x = self.attention_norm(x + self.attention_adapter(attended))
        cross = self.cross.key_values(memory) if cross is None else cross
        attended = self.cross(x, Source(cross.key, cross.value, None, cross_mask), sites[1])
        x = self.cross_norm(x + self.cross_adapter(attended))
        return self.mlp_norm(x + self.mlp_adapter(self.mlp(x))), key_values


class Positions(nn.Module):
    """Adds learned positions to embeddings, and takes their norm."""

    spec: BartSpec

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T E"], positions: Array) -> Float[Array, "*batch T E"]:
        rows = (self.spec.max_positions + UNUSED_POSITIONS, self.spec.d_model)
        table = self.param("table", nn.initializers.normal(0.02), rows)
        # Columns without a token may lie beyond the table, as in `layers.Embedding`.
        moved = x + jnp.take(table, positions + UNUSED_POSITIONS, axis=0, mode="clip").astype(x.dtype)
        return LayerNorm(self.spec.norm_epsilon, name="norm")(moved)


class Encoder(nn.Module):
    spec: BartSpec
    rematerialise: bool = False
    placement: Places | None = None

    @nn.compact
    def __call__(self, x: Array, positions: Array, mask: Any, prefix: Prefix | None) -> tuple[Array, KeyValues]:
        block = EncoderBlock(self.spec)
        stack = Stack(block, self.spec.encoder_layers, self.rematerialise, self.placement, name="layers")
        x = Positions(self.spec, name="positions")(x, positions)
        return stack(x, shared_by_layers(mask), (site_of(prefix, "encoder"),), None)


class Decoder(nn.Module):
    """Positions begin at the prefix's `position_offset`; the encoder's at 0."""

    spec: BartSpec
    rematerialise: bool = False
    placement: Places | None = None

    def setup(self) -> None:
        self.positions = Positions(self.spec)
        self.layers = Stack(DecoderBlock(self.spec), self.spec.layers, self.rematerialise, self.placement)

    def __call__(
        self,
        x: Array,
        positions: Array,
        columns: Array,
        mask: Array,
        memory: Array | None,
        cross: KeyValues | None,
        cross_mask: Array,
        prefix: Prefix | None,
        past: tuple[Past, ...],
    ) -> tuple[Array, KeyValues]:
        shared = (shared_by_layers(mask), tuple(p.mask for p in past), shared_by_layers(cross_mask), memory)
        sites = (site_of(prefix, "decoder"), site_of(prefix, "cross"))
        x = self.positions(x, positions + offset(prefix))
        return self.layers(x, shared, sites, (tuple((p.key, p.value) for p in past), cross))


class Bart(EncoderDecoder):
    spec: BartSpec
    biases: ClassVar[bool] = True

    def setup(self) -> None:
        super().setup()
        self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (self.spec.vocab_size,))

    def make_encoder(self) -> nn.Module:
        return Encoder(self.spec, self.rematerialise, self.placement)

    def make_decoder(self) -> nn.Module:
        return Decoder(self.spec, self.rematerialise, self.placement)

    def embed(self, tokens: Array) -> Array:
        rows = self.embedding(tokens)
        return rows * jnp.asarray(self.spec.d_model**0.5, rows.dtype) if self.spec.scale_embeddings else rows

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        return super().logits(hidden) + self.logits_bias.astype(jnp.float32)
