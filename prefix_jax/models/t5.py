"""T5 1.0 (ReLU, tied), 1.1 and FLAN (gated, untied): Raffel et al. 2020.

Relative position bias is computed once, outside the layers, between real tokens only; prefix columns have none.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prefix_jax.models.attention import Source, attend, oriented, same_segment, segment_positions
from prefix_jax.models.gpt2 import gelu
from prefix_jax.models.injected import PROMPT, Adapter, with_prompt
from prefix_jax.models.layers import (
    MLP,
    Embedding,
    GatedMLP,
    Places,
    Projection,
    RMSNorm,
    SelfAttention,
    Stack,
    gather_columns,
    heads_first,
    past_sources,
    whole_layers,
)
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


def _present(source: Source | None) -> tuple[Source, ...]:
    return () if source is None else (source,)


class EncoderBlock(nn.Module):
    spec: T5Spec

    @nn.compact
    def __call__(self, x: Array, shared: Any, sites: tuple[Source | None, ...], past: None) -> tuple[Array, KeyValues]:
        mask, bias = shared
        normed = RMSNorm(self.spec.norm_epsilon, name="attention_norm")(x)
        attended, key_values = _self_attention(self.spec)(normed, mask, bias, lambda h: h, _present(sites[0]))
        x = x + Adapter(name="attention_adapter")(attended)
        inner = _mlp(self.spec)(RMSNorm(self.spec.norm_epsilon, name="mlp_norm")(x))
        return x + Adapter(name="mlp_adapter")(inner), key_values


class CrossAttention(nn.Module):
    """Queries over the encoder's states, whose keys and values are computed here unless they are given."""

    spec: T5Spec

    def setup(self) -> None:
        s = self.spec
        self.query = Projection((s.heads, 1, s.head_dim))
        self.key_value = Projection((s.heads, 2, s.head_dim))
        self.out = Projection((s.d_model,), inputs=3)

    def __call__(self, x: Array, source: Source, prefix: Source | None) -> Array:
        query = heads_first(self.query(x))
        out = attend(query, (*_present(prefix), source), scale=1.0, operands=self.query.operands(x))
        return self.out(jnp.moveaxis(out, -2, -4))

    def key_values(self, memory: Float[Array, "B S E"]) -> KeyValues:
        both = heads_first(self.key_value(memory))
        return KeyValues(both[..., 0, :, :], both[..., 1, :, :])


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
        sources = (*_present(sites[0]), *past_sources(caches, past_masks, past_biases))
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
    def __call__(self, x: Array, segment_ids: Array, prefix: Prefix | None) -> tuple[Array, KeyValues]:
        s = self.spec
        table = self.param("relative_bias", nn.initializers.normal(0.1), (s.buckets, s.heads))
        columns = jnp.arange(x.shape[-2])
        bias = relative_bias(table, columns, columns, True, s)
        mask, bias = oriented(same_segment(segment_ids, segment_ids)[..., None, None, :, :]), oriented(bias)
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
            oriented(mask),
            oriented(bias(columns)),
            tuple(p.mask for p in past),
            past_biases,
            oriented(cross_mask),
            memory,
        )
        sites = (site_of(prefix, "decoder"), site_of(prefix, "cross"))
        x, key_values = self.layers(x, shared, sites, (tuple((p.key, p.value) for p in past), cross))
        return self.final_norm(x), key_values


class T5(nn.Module):
    """A pure function of (variables, prefix, encoder tokens, decoder tokens)."""

    spec: T5Spec
    rematerialise: bool = False
    activations: Any = None
    placement: Places | None = None

    def setup(self) -> None:
        s = self.spec
        self.embedding = Embedding(s.vocab_size, s.d_model, activations=self.activations, placement=self.placement)
        self.encoder = Encoder(s, self.rematerialise, self.placement)
        self.decoder = Decoder(s, self.rematerialise, self.placement)
        if not s.tie_embeddings:
            self.head = Embedding(s.vocab_size, s.d_model, placement=self.placement)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        target_positions: Int[Array, "B M"] | None = None,
        encoder_tokens: Int[Array, "B S"] | None = None,
        encoder_positions: Int[Array, "B S"] | None = None,
        encoder_segment_ids: Int[Array, "B S"] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Array, "B M V"]:
        """Returns float32 logits at the target positions (all positions if None).

        Packed segments are told apart by equal segment ids on both sides; an attention mask is a valid value. Positions
        are not used: T5 knows only distances between columns.
        """
        hidden = self.target_hidden(
            tokens,
            positions,
            segment_ids,
            target_positions,
            encoder_tokens,
            encoder_positions,
            encoder_segment_ids,
            prefix,
        )
        return self.logits(hidden)

    def target_hidden(
        self,
        tokens: Array,
        positions: Array | None = None,
        segment_ids: Array | None = None,
        target_positions: Array | None = None,
        encoder_tokens: Array | None = None,
        encoder_positions: Array | None = None,
        encoder_segment_ids: Array | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Array, "B M E"]:
        """Returns the last hidden states at the target positions; `logits` turns them into logits."""
        assert encoder_tokens is not None
        own = jnp.ones_like(tokens) if segment_ids is None else segment_ids
        theirs = jnp.ones_like(encoder_tokens) if encoder_segment_ids is None else encoder_segment_ids
        memory = self.encode(encoder_tokens, theirs, prefix=prefix)
        columns = jnp.arange(tokens.shape[-1])
        mask = (same_segment(own, own) & (columns[:, None] >= columns))[..., None, None, :, :]
        cross_mask = same_segment(own, theirs)[..., None, None, :, :]
        hidden, _ = self.decoder(self.embedding(tokens), columns, mask, memory, None, cross_mask, prefix, ())
        return gather_columns(hidden, target_positions)

    def encode(self, tokens: Array, segment_ids: Array, prefix: Prefix | None = None) -> Float[Array, "B S E"]:
        """Returns the encoder's last states."""
        return self.encode_key_values(tokens, segment_ids, prefix)[0]

    def encode_key_values(
        self, tokens: Array, segment_ids: Array, prefix: Prefix | None = None
    ) -> tuple[Float[Array, "B S E"], KeyValues]:
        """Returns the encoder's last states and its layers' keys and values."""
        embedded = self.embedding(tokens)
        if self.has_variable(PROMPT, "embeddings"):
            prompt = self.get_variable(PROMPT, "embeddings")
            embedded = with_prompt(embedded, segment_positions(segment_ids), prompt)
        return self.encoder(embedded, segment_ids, prefix)

    def decode(
        self,
        tokens: Int[Array, "*batch T"],
        columns: Int[Array, "T"],
        cross: KeyValues,
        cross_mask: Array,
        prefix: Prefix | None = None,
        past: tuple[Past, ...] = (),
    ) -> tuple[Float[Array, "*batch T E"], KeyValues]:
        """Returns hidden states after the last norm and this call's keys and values.

        `cross` comes from `cross_key_values`; `cross_mask` `[B, S]` is true on real encoder tokens; `columns` are the
        tokens'
        places in the output, shared by the batch.
        """
        mask = columns[:, None] >= columns
        shape = cross_mask.shape[:1] + (1,) * (tokens.ndim + 1) + cross_mask.shape[1:]
        return self.decoder(self.embedding(tokens), columns, mask, None, cross, cross_mask.reshape(shape), prefix, past)

    def cross_key_values(self, memory: Float[Array, "B S E"]) -> KeyValues:
        """Returns the keys and values that every decoder layer's cross-attention reads, stacked over layers."""
        projection = Projection((self.spec.heads, 2, self.spec.head_dim), parent=None)
        parts = []
        for weights in whole_layers(self.decoder.layers.variables, self.spec.layers):
            crosses = {name: tree.get("cross", {}) for name, tree in weights.items()}
            own = {name: tree["key_value"] for name, tree in crosses.items() if "key_value" in tree}
            found: Any = jax.vmap(projection.apply, in_axes=(0, None))(own, memory)
            parts.append(heads_first(found))
        both = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
        return KeyValues(both[..., 0, :, :], both[..., 1, :, :])

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        if self.spec.scale_outputs:
            hidden = hidden * jnp.asarray(self.spec.d_model**-0.5, hidden.dtype)
        return (self.embedding if self.spec.tie_embeddings else self.head).logits(hidden)
