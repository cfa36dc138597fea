"""What GPT-2 and Llama share: the calls of a decoder-only model, and its stack of layers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prefix_jax.models import masks
from prefix_jax.models.injected import PROMPT, with_prompt
from prefix_jax.models.layers import Embedding, Places, Stack, gather_columns
from prefix_jax.models.prefix import KeyValues, Past, Prefix, offset, site_of


class DecoderOnly(nn.Module):
    """A pure function of (variables, prefix, tokens). Subclasses give the block, the embeddings and the last norm."""

    spec: Any
    rematerialise: bool = False
    activations: Any = None
    placement: Places | None = None
    fused: bool = False

    def make_block(self) -> nn.Module:
        raise NotImplementedError

    def make_norm(self) -> nn.Module:
        raise NotImplementedError

    def embed(self, tokens: Array, positions: Array, put: Callable[[Array], Array]) -> Array:
        """Embeds tokens; `put` replaces the embeddings of those that stand for a prompt."""
        raise NotImplementedError

    def shared(self, positions: Array) -> Any:
        """What every layer gets beside the mask, computed once."""
        raise NotImplementedError

    def setup(self) -> None:
        learned = getattr(self.spec, "learned_positions", 0)
        self.embedding = Embedding(self.spec.vocab_size, self.spec.d_model, learned, self.activations, self.placement)
        self.layers = Stack(self.make_block(), self.spec.layers, self.rematerialise, self.placement)
        self.final_norm = self.make_norm()
        if not self.spec.tie_embeddings:
            self.head = Embedding(self.spec.vocab_size, self.spec.d_model, placement=self.placement)

    def __call__(
        self,
        tokens: Int[Array, "*batch T"],
        positions: Int[Array, "... T"] | None = None,
        segment_ids: Int[Array, "*batch T"] | None = None,
        target_positions: Int[Array, "B M"] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Array, "*batch M V"]:
        """Returns float32 logits at the target positions (all positions if None).

        `segment_ids` separate packed segments, and 0 from the rest: an attention mask is a valid value. `positions`
        count from 0 in each segment, and are derived from the segments where not given.
        """
        return self.logits(self.target_hidden(tokens, positions, segment_ids, target_positions, prefix=prefix))

    def target_hidden(
        self,
        tokens: Array,
        positions: Array | None = None,
        segment_ids: Array | None = None,
        target_positions: Array | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Array, "*batch M E"]:
        """Returns the last hidden states at the target positions; `logits` turns them into logits."""
        after = None
        if prefix is not None and prefix.infix and target_positions is not None:
            after = jnp.any(target_positions[..., None] == jnp.arange(tokens.shape[-1]), axis=-2)
        hidden, _ = self.hidden(tokens, positions, segment_ids, prefix=prefix, after=after)
        return gather_columns(hidden, target_positions)

    def hidden(
        self,
        tokens: Array,
        positions: Array | None = None,
        segment_ids: Array | None = None,
        prefix: Prefix | None = None,
        past: tuple[Past, ...] = (),
        after: Bool[Array, "*batch T"] | None = None,
    ) -> tuple[Float[Array, "*batch T E"], KeyValues]:
        """Returns hidden states after the last norm, and this call's keys and values; `past` are caches it also
        sees. `after` marks the tokens that see an infix; None: all.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[-1]) if segment_ids is None else masks.segment_positions(segment_ids)
        seen = after if prefix is not None and prefix.infix else None
        mask = self._mask(tokens, positions, segment_ids, fused=self.fused and not past and seen is None)
        prompt = self.get_variable(PROMPT, "embeddings") if self.has_variable(PROMPT, "embeddings") else None
        put = partial(with_prompt, positions=positions, prompt=prompt)
        positions = positions + (offset(prefix) if seen is None else jnp.where(seen, offset(prefix), 0))
        sees = None if seen is None else masks.oriented(seen[..., None, None, :, None])
        shared = (masks.shared_by_layers(mask), sees, tuple(p.mask for p in past), self.shared(positions))
        caches = tuple((p.key, p.value) for p in past)
        embedded = self.embed(tokens, positions, put)
        x, key_values = self.layers(embedded, shared, (site_of(prefix, "decoder"),), caches)
        return self.final_norm(x), key_values

    def _mask(self, tokens: Array, positions: Array, segment_ids: Array | None, fused: bool) -> Any:
        window = getattr(self.spec, "sliding_window", None)
        if not fused:
            return masks.causal_mask(positions, segment_ids, window)
        return masks.causal_interval(
            jnp.ones_like(tokens) if segment_ids is None else segment_ids, window, self.placement
        )

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        return (self.embedding if self.spec.tie_embeddings else self.head).logits(hidden)
