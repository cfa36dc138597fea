"""What T5 and BART share: the calls of an encoder-decoder, and attention over the encoder's states."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prefix_jax.models.attention import Source, attend
from prefix_jax.models.injected import PROMPT, with_prompt
from prefix_jax.models.layers import Embedding, Places, Projection, gather_columns, heads_first, observe, whole_layers
from prefix_jax.models.masks import causal_interval, causal_mask, segment_interval, segment_mask, segment_positions
from prefix_jax.models.prefix import KeyValues, Past, Prefix
from prefix_jax.models.specs import Spec


def present(source: Source | None) -> tuple[Source, ...]:
    return () if source is None else (source,)


class CrossAttention(nn.Module):
    """Queries over the encoder's states, whose keys and values are computed here unless they are given."""

    spec: Spec
    scale: float = 1.0
    bias: bool = False

    def setup(self) -> None:
        s = self.spec
        self.query = Projection((s.heads, 1, s.head_dim), bias=self.bias)
        self.key_value = Projection((s.heads, 2, s.head_dim), bias=self.bias)
        self.out = Projection((s.d_model,), inputs=3, bias=self.bias)

    def __call__(self, x: Array, source: Source, prefix: Source | None) -> Array:
        query = heads_first(self.query(x))
        sources = (*present(prefix), source)
        out = attend(query, sources, self.scale, operands=self.query.operands(x))
        observe(self, query, sources, self.scale)
        return self.out(jnp.moveaxis(out, -2, -4))

    def key_values(self, memory: Float[Array, "B S E"]) -> KeyValues:
        both = heads_first(self.key_value(memory))
        return KeyValues(both[..., 0, :, :], both[..., 1, :, :])


class EncoderDecoder(nn.Module):
    """A pure function of (variables, prefix, encoder tokens, decoder tokens). Subclasses give both stacks.

    The encoder is called as `encoder(x, positions, mask, prefix)`, the decoder as `decoder(x, positions,
    columns, mask, memory, cross, cross_mask, prefix, past)`; both return hidden states and key-values.
    """

    spec: Any
    rematerialise: bool = False
    activations: Any = None
    placement: Places | None = None
    fused: bool = False
    # Whether projections have biases.
    biases: ClassVar[bool] = False

    def make_encoder(self) -> nn.Module:
        raise NotImplementedError

    def make_decoder(self) -> nn.Module:
        raise NotImplementedError

    def setup(self) -> None:
        s = self.spec
        self.embedding = Embedding(s.vocab_size, s.d_model, activations=self.activations, placement=self.placement)
        self.encoder: Any = self.make_encoder()
        self.decoder: Any = self.make_decoder()
        if not s.tie_embeddings:
            self.head = Embedding(s.vocab_size, s.d_model, placement=self.placement)

    def embed(self, tokens: Array) -> Array:
        return self.embedding(tokens)

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
        count from 0 in each segment, and are derived from the segments where not given.
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
        memory = self.encode(encoder_tokens, theirs, encoder_positions, prefix=prefix)
        columns = jnp.arange(tokens.shape[-1])
        positions = segment_positions(own) if positions is None else positions
        mask = causal_interval(own, places=self.placement) if self.fused else causal_mask(columns, own)
        cross_mask = self._same_segment(own, theirs)
        hidden, _ = self.decoder(self.embed(tokens), positions, columns, mask, memory, None, cross_mask, prefix, ())
        return gather_columns(hidden, target_positions)

    def encode(
        self, tokens: Array, segment_ids: Array, positions: Array | None = None, prefix: Prefix | None = None
    ) -> Float[Array, "B S E"]:
        """Returns the encoder's last states."""
        return self.encode_key_values(tokens, segment_ids, positions, prefix)[0]

    def encode_key_values(
        self, tokens: Array, segment_ids: Array, positions: Array | None = None, prefix: Prefix | None = None
    ) -> tuple[Float[Array, "B S E"], KeyValues]:
        """Returns the encoder's last states and its layers' keys and values."""
        positions = segment_positions(segment_ids) if positions is None else positions
        prompt = self.get_variable(PROMPT, "embeddings") if self.has_variable(PROMPT, "embeddings") else None
        embedded = with_prompt(self.embed(tokens), positions, prompt)
        return self.encoder(embedded, positions, self._same_segment(segment_ids, segment_ids), prefix)

    def _same_segment(self, query_ids: Array, key_ids: Array) -> Any:
        return segment_interval(query_ids, key_ids, self.placement) if self.fused else segment_mask(query_ids, key_ids)

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
        tokens' places in the output, shared by the batch.
        """
        mask = columns[:, None] >= columns
        shape = cross_mask.shape[:1] + (1,) * (tokens.ndim + 1) + cross_mask.shape[1:]
        cross_mask = cross_mask.reshape(shape)
        return self.decoder(self.embed(tokens), columns, columns, mask, None, cross, cross_mask, prefix, past)

    def cross_key_values(self, memory: Float[Array, "B S E"]) -> KeyValues:
        """Returns the keys and values that every decoder layer's cross-attention reads, stacked over layers."""
        projection = Projection((self.spec.heads, 2, self.spec.head_dim), bias=self.biases, parent=None)
        parts = []
        for weights in whole_layers(self.decoder.layers.variables, self.spec.layers):
            crosses = {name: tree.get("cross", {}) for name, tree in weights.items()}
            own = {name: tree["key_value"] for name, tree in crosses.items() if "key_value" in tree}
            found: Any = jax.vmap(projection.apply, in_axes=(0, None))(own, memory)
            parts.append(heads_first(found))
        both = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
        return KeyValues(both[..., 0, :, :], both[..., 1, :, :])

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        return (self.embedding if self.spec.tie_embeddings else self.head).logits(hidden)
