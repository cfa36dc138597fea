"""T5 1.0 (ReLU, tied), 1.1 and FLAN (gated, untied): Raffel et al. 2020.

Relative position bias is computed once, outside the layers, between the columns of real tokens only; prefix columns
have none, and positions are not used.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prefix_jax.models.attention import Source
from prefix_jax.models.encoder_decoder import CrossAttention, EncoderDecoder, present
from prefix_jax.models.gpt2 import gelu
from prefix_jax.models.injected import Adapter
from prefix_jax.models.layers import MLP, GatedMLP, Places, RMSNorm, SelfAttention, Stack, past_sources
from prefix_jax.models.masks import oriented, shared_by_layers
from prefix_jax.models.prefix import KeyValues, Past, Prefix, site_of
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


def _self_attention(spec: T5Spec) -> SelfAttention:
    return SelfAttention(spec.heads, 1, spec.head_dim, scale=1.0, name="attention")  # T5 does not scale its logits


def _mlp(spec: T5Spec) -> nn.Module:
    activation = _ACTIVATIONS[spec.activation]
    return (GatedMLP if spec.gated else MLP)(spec.d_ff, activation, name="mlp")


class EncoderBlock(nn.Module):
    spec: T5Spec

    @nn.compact
    def __call__(self, x: Array, shared: Any, sites: tuple[Source | None, ...], past: None) -> tuple[Array, KeyValues]:
        mask, bias = shared
        normed = RMSNorm(self.spec.norm_epsilon, name="attention_norm")(x)
        attended, key_values = _self_attention(self.spec)(normed, mask, bias, lambda h: h, present(sites[0]))
        x = x + Adapter(name="attention_adapter")(attended)
        inner = _mlp(self.spec)(RMSNorm(self.spec.norm_epsilon, name="mlp_norm")(x))
        return x + Adapter(name="mlp_adapter")(inner), key_values


class DecoderBlock(nn.Module):
    spec: T5Spec

    def setup(self) -> None:
        s = self.spec
        self.attention = SelfAttention(s.heads, 1, s.head_dim, scale=1.0)
        self.attention_norm, self.cross_norm, self.mlp_norm = (RMSNorm(s.norm_epsilon) for _ in range(3))
        self.cross = CrossAttention(s)
        self.mlp = (GatedMLP if s.gated else MLP)(s.d_ff, _ACTIVATIONS[s.activation])
        self.attention_adapter, self.cross_adapter, self.mlp_adapter = Adapter(), Adapter(), Adapter()

    def __call__(self, x: Array, shared: Any, sites: tuple[Source | None, ...], past: Any) -> tuple[Array, KeyValues]:
        mask, bias, past_masks, past_biases, cross_mask, memory = shared
        caches, cross = past
        sources = (*present(sites[0]), *past_sources(caches, past_masks, past_biases))
        attended, key_values = self.attention(self.attention_norm(x), mask, bias, lambda h: h, sources)
        x = x + self.attention_adapter(attended)
        cross = self.cross.key_values(memory) if cross is None else cross
        attended = self.cross(self.cross_norm(x), Source(cross.key, cross.value, None, cross_mask), sites[1])
        x = x + self.cross_adapter(attended)
        return x + self.mlp_adapter(self.mlp(self.mlp_norm(x))), key_values


class Encoder(nn.Module):
    spec: T5Spec
    rematerialise: bool = False
    placement: Places | None = None

    @nn.compact
    def __call__(self, x: Array, positions: Array, mask: Any, prefix: Prefix | None) -> tuple[Array, KeyValues]:
        s = self.spec
        table = self.param("relative_bias", nn.initializers.normal(0.1), (s.buckets, s.heads))
        columns = jnp.arange(x.shape[-2])
        bias = relative_bias(table, columns, columns, True, s)
        mask, bias = shared_by_layers(mask), oriented(bias)
        stack = Stack(EncoderBlock(s), s.encoder_layers, self.rematerialise, self.placement, name="layers")
        x, key_values = stack(x, (mask, bias), (site_of(prefix, "encoder"),), None)
        return RMSNorm(s.norm_epsilon, name="final_norm")(x), key_values


def relative_bias(table: Array, query_columns: Array, key_columns: Array, both: bool, spec: T5Spec) -> Array:
    """Returns `[H, 1, T, S]` in float32: what is added to the logits of keys by their distance."""
    distance = key_columns[None, :] - query_columns[:, None]
    buckets = relative_buckets(distance, both, spec.buckets, spec.max_distance)
    return jnp.moveaxis(jnp.take(table.astype(jnp.float32), buckets, axis=0), -1, 0)[:, None]


class Decoder(nn.Module):
    spec: T5Spec
    rematerialise: bool = False
    placement: Places | None = None

    def setup(self) -> None:
        s = self.spec
        self.relative_bias = self.param("relative_bias", nn.initializers.normal(0.1), (s.buckets, s.heads))
        self.layers = Stack(DecoderBlock(s), s.layers, self.rematerialise, self.placement)
        self.final_norm = RMSNorm(s.norm_epsilon)

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
        def bias(keys: Array) -> Array:
            return relative_bias(self.relative_bias, columns, keys, False, self.spec)

        past_biases = tuple(bias(p.columns) for p in past)
        shared = (
            shared_by_layers(mask),
            oriented(bias(columns)),
            tuple(p.mask for p in past),
            past_biases,
            shared_by_layers(cross_mask),
            memory,
        )
        sites = (site_of(prefix, "decoder"), site_of(prefix, "cross"))
        x, key_values = self.layers(x, shared, sites, (tuple((p.key, p.value) for p in past), cross))
        return self.final_norm(x), key_values


class T5(EncoderDecoder):
    spec: T5Spec

    def make_encoder(self) -> nn.Module:
        return Encoder(self.spec, self.rematerialise, self.placement)

    def make_decoder(self) -> nn.Module:
        return Decoder(self.spec, self.rematerialise, self.placement)

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        if self.spec.scale_outputs:
            hidden = hidden * jnp.asarray(self.spec.d_model**-0.5, hidden.dtype)
        return super().logits(hidden)
