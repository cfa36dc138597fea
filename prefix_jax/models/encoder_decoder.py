"""Base classes of encoder-decoder models: entry points and the layer stack of each side."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prefix_jax.models.adapter_layers import prompt_of, with_prompt
from prefix_jax.models.context import LayerContext
from prefix_jax.models.layers import Embedding, Projection, Sharder, gather_columns, heads_first
from prefix_jax.models.masks import (
    causal_interval,
    causal_mask,
    mask_pair,
    segment_interval,
    segment_mask,
    segment_positions,
    shared_by_layers,
)
from prefix_jax.models.model_config import LayerKind
from prefix_jax.models.prefix import KeyValues, Past, Prefix, offset, prefix_of
from prefix_jax.models.stack import Stack, whole_layers


class Side(nn.Module):
    """The encoder or the decoder: a stack of layers with family-specific hooks.

    Subclasses provide the block, and may override `begin` (embeddings), `bias` (logits) and `end` (last layer).
    """

    model_config: Any
    decoder: bool
    rematerialise: bool = False
    sharder: Sharder | None = None

    def make_block(self) -> nn.Module:
        raise NotImplementedError

    def begin(self, x: Float[Array, "*batch T E"], positions: Array) -> Float[Array, "*batch T E"]:
        return x

    def bias(self, queries: Int[Array, "*rows T"], keys: Int[Array, "... S"]) -> Float[Array, "*rows H 1 T S"] | None:
        """Returns the bias of the logits, given the columns of queries and keys."""
        return None

    def end(self, x: Float[Array, "*batch T E"]) -> Float[Array, "*batch T E"]:
        return x

    def setup(self) -> None:
        pattern = self.model_config.layer_pattern if self.decoder else (LayerKind(),) * self.model_config.encoder_layers
        self.layers = Stack(self.make_block(), pattern, self.rematerialise, self.sharder)

    def __call__(
        self,
        x: Float[Array, "*batch T E"],
        positions: Int[Array, "... T"],
        columns: Int[Array, "*rows T"],
        context: LayerContext,
        prefix: Prefix | None,
        past: tuple[Past, ...] = (),
        cross: KeyValues | None = None,
    ) -> tuple[Float[Array, "*batch T E"], KeyValues]:
        """Returns hidden states and this call's keys and values.

        Args:
          positions: token positions in their segments; a decoder's start at the prefix's `position_offset`.
          columns: token columns in their row.
          context: masks, and for a decoder the encoder states.
          past: caches of earlier tokens.
          cross: keys and values of the encoder states, if already computed.
        """
        bias = self.bias(columns, columns)
        context = context._replace(
            bias=None if bias is None else mask_pair(bias),
            cache_masks=tuple(p.mask for p in past),
            cache_biases=tuple(self.bias(columns, p.positions) for p in past),
        )
        sites = ("decoder", "cross") if self.decoder else ("encoder",)
        caches = tuple(KeyValues(p.key, p.value) for p in past)
        x, key_values = self.layers(
            self.begin(x, positions + offset(prefix) if self.decoder else positions),
            {LayerKind(): context},
            tuple(prefix_of(prefix, site) for site in sites),
            caches,
            cross,
        )
        return self.end(x), key_values


class EncoderDecoder(nn.Module):
    """A pure function of (variables, prefix, encoder tokens, decoder tokens). Subclasses set `side`."""

    model_config: Any
    rematerialise: bool = False
    activations: Any = None
    sharder: Sharder | None = None
    kernel: str | None = None
    side: ClassVar[type[Side]]
    # Whether projections have biases.
    biases: ClassVar[bool] = False

    @property
    def embedding_scale(self) -> float:
        return 1.0

    def setup(self) -> None:
        s = self.model_config
        self.embedding = Embedding(s.vocab_size, s.d_model, 0, self.activations, self.sharder, self.embedding_scale)
        self.encoder = self.side(s, False, self.rematerialise, self.sharder)
        self.decoder = self.side(s, True, self.rematerialise, self.sharder)
        if not s.tie_embeddings:
            self.head = Embedding(s.vocab_size, s.d_model, sharder=self.sharder)

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

        Segment ids match packed segments across both sides; an attention mask is a valid value. Positions count from 0
        in each segment and default to positions derived from the segments.
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
        """Returns the final hidden states at the target positions; `logits` maps them to logits."""
        assert encoder_tokens is not None
        own = jnp.ones_like(tokens) if segment_ids is None else segment_ids
        theirs = jnp.ones_like(encoder_tokens) if encoder_segment_ids is None else encoder_segment_ids
        memory = self.encode(encoder_tokens, theirs, encoder_positions, prefix=prefix)
        columns = jnp.arange(tokens.shape[-1])
        positions = segment_positions(own) if positions is None else positions
        mask = self._causal(own)
        cross_mask = shared_by_layers(self._same_segment(own, theirs))
        context = LayerContext(shared_by_layers(mask), cross_mask=cross_mask, memory=memory)
        hidden, _ = self.decoder(self.embedding(tokens), positions, columns, context, prefix)
        return gather_columns(hidden, target_positions)

    def encode(
        self, tokens: Array, segment_ids: Array, positions: Array | None = None, prefix: Prefix | None = None
    ) -> Float[Array, "B S E"]:
        """Returns the final encoder states."""
        return self.encode_key_values(tokens, segment_ids, positions, prefix)[0]

    def encode_key_values(
        self, tokens: Array, segment_ids: Array, positions: Array | None = None, prefix: Prefix | None = None
    ) -> tuple[Float[Array, "B S E"], KeyValues]:
        """Returns the final encoder states and the keys and values of its layers."""
        positions = segment_positions(segment_ids) if positions is None else positions
        embedded = with_prompt(self.embedding(tokens), positions, prompt_of(self))
        context = LayerContext(shared_by_layers(self._same_segment(segment_ids, segment_ids)))
        return self.encoder(embedded, positions, jnp.arange(tokens.shape[-1]), context, prefix)

    def _same_segment(self, query_ids: Array, key_ids: Array) -> Any:
        if self.kernel == "pallas":
            return segment_interval(query_ids, key_ids, self.sharder)
        return segment_mask(query_ids, key_ids)

    def _causal(self, segment_ids: Array) -> Any:
        if self.kernel == "pallas":
            return causal_interval(segment_ids, sharder=self.sharder)
        return causal_mask(jnp.arange(segment_ids.shape[-1]), segment_ids)

    def decode(
        self,
        tokens: Int[Array, "*batch T"],
        columns: Int[Array, "*rows T"],
        cross: KeyValues,
        cross_mask: Array,
        prefix: Prefix | None = None,
        past: tuple[Past, ...] = (),
    ) -> tuple[Float[Array, "*batch T E"], KeyValues]:
        """Returns hidden states after the final norm and this call's keys and values.

        `cross` comes from `cross_key_values`; `cross_mask` `[B, S]` is True at real encoder tokens; `columns` are the
        token columns in the output, those of each row or shared by the batch.
        """
        mask = (columns[..., :, None] >= columns[..., None, :])[..., None, None, :, :]
        shape = cross_mask.shape[:1] + (1,) * (tokens.ndim + 1) + cross_mask.shape[1:]
        context = LayerContext(shared_by_layers(mask), cross_mask=shared_by_layers(cross_mask.reshape(shape)))
        return self.decoder(self.embedding(tokens), columns, columns, context, prefix, past, cross)

    def cross_key_values(self, memory: Float[Array, "B S E"]) -> KeyValues:
        """Returns the cross-attention keys and values of every decoder layer, stacked over layers."""
        projection = Projection((self.model_config.heads, 2, self.model_config.head_dim), bias=self.biases, parent=None)
        parts = []
        for weights in whole_layers(self.decoder.layers.variables, self.model_config.layers):
            crosses = {name: tree.get("cross", {}) for name, tree in weights.items()}
            own = {name: tree["key_value"] for name, tree in crosses.items() if "key_value" in tree}
            found: Any = jax.vmap(projection.apply, in_axes=(0, None))(own, memory)
            parts.append(heads_first(found))
        both = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
        return KeyValues(both[..., 0, :, :], both[..., 1, :, :])

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        return (self.embedding if self.model_config.tie_embeddings else self.head).logits(hidden)
