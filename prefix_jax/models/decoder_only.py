"""Base class of decoder-only models: entry points and the layer stack."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prefix_jax.models import masks
from prefix_jax.models.adapter_layers import prompt_of, with_prompt
from prefix_jax.models.attention import rotary_angles
from prefix_jax.models.context import LayerContext, linear_biases, window_masks
from prefix_jax.models.layers import Embedding, Sharder, gather_columns
from prefix_jax.models.model_config import LayerKind
from prefix_jax.models.prefix import KeyValues, Past, Prefix, offset, prefix_of
from prefix_jax.models.stack import Stack


class DecoderOnly(nn.Module):
    """A pure function of (variables, prefix, tokens). Subclasses provide the block and the final norm.

    Embeddings are multiplied by `embedding_scale`, logits by `logit_scale`; then `logit_cap`, if any,
    is their soft cap. A head of its own may have a bias.
    """

    model_config: Any
    rematerialise: bool = False
    activations: Any = None
    sharder: Sharder | None = None
    kernel: str | None = None
    head_bias: ClassVar[bool] = False

    def make_block(self) -> nn.Module:
        raise NotImplementedError

    def make_norm(self) -> nn.Module:
        raise NotImplementedError

    @property
    def own_head(self) -> bool:
        """Whether the output matrix is a parameter: one with a bias always is."""
        return self.head_bias or not self.model_config.tie_embeddings

    @property
    def embedding_scale(self) -> float:
        return 1.0

    @property
    def logit_scale(self) -> float:
        return 1.0

    @property
    def logit_cap(self) -> float | None:
        return None

    def setup(self) -> None:
        s = self.model_config
        sizes, learned = (s.vocab_size, s.embedding_width), s.learned_positions
        self.embedding = Embedding(
            *sizes, learned, self.activations, self.sharder, self.embedding_scale, position_width=s.d_model
        )
        self.layers = Stack(self.make_block(), s.layer_pattern, self.rematerialise, self.sharder)
        self.final_norm = self.make_norm()
        if self.own_head:
            self.head = Embedding(*sizes, sharder=self.sharder, bias=self.head_bias)

    def embed(self, tokens: Array, positions: Array | None, put: Callable[[Array], Array]) -> Array:
        """Returns the first layer's input; `put` places a prompt among the embeddings, which `positions` then join."""
        return self.embedding(tokens, positions, put)

    def __call__(
        self,
        tokens: Int[Array, "*batch T"],
        positions: Int[Array, "... T"] | None = None,
        segment_ids: Int[Array, "*batch T"] | None = None,
        target_positions: Int[Array, "B M"] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Array, "*batch M V"]:
        """Returns float32 logits at the target positions (all positions if None).

        `segment_ids` separate packed segments, with 0 for padding, so an attention mask is a valid value. `positions`
        count from 0 in each segment and default to positions derived from the segments.
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
        """Returns the final hidden states at the target positions; `logits` maps them to logits."""
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
        """Returns hidden states after the final norm, and this call's keys and values; `past` are caches of earlier
        tokens. `after` marks the tokens that see an infix; None: all.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[-1]) if segment_ids is None else masks.segment_positions(segment_ids)
        seen = after if prefix is not None and prefix.infix else None
        put = partial(with_prompt, positions=positions, prompt=prompt_of(self))
        moved = positions + (offset(prefix) if seen is None else jnp.where(seen, offset(prefix), 0))
        sees = None if seen is None else masks.mask_pair(seen[..., None, None, :, None])
        segments = jnp.ones_like(tokens) if segment_ids is None else segment_ids
        biases = linear_biases(self.model_config.alibi, self.model_config.kv_heads, positions, prefix, past)

        def context(kind: LayerKind) -> LayerContext:
            if self.kernel and not past and seen is None and biases.own is None:
                mask: Any = masks.causal_interval(segments, kind.window, self.sharder, self.kernel)
                mask = mask.replace(causal=segment_ids is None and kind.window is None)
            else:
                mask = masks.shared_by_layers(masks.causal_mask(positions, segment_ids, kind.window))
            rotary = None if kind.rotary is None else rotary_angles(moved, self.model_config.head_dim, kind.rotary)
            past_masks = window_masks(past, positions, kind.window)
            return LayerContext(mask, biases.own, rotary, sees, biases.prefix, past_masks, biases.caches)

        contexts = {kind: context(kind) for kind in dict.fromkeys(self.model_config.layer_pattern)}
        caches = tuple(KeyValues(p.key, p.value) for p in past)
        embedded = self.embed(tokens, moved if self.model_config.learned_positions else None, put)
        x, key_values = self.layers(embedded, contexts, (prefix_of(prefix, "decoder"),), caches)
        return self.final_norm(x), key_values

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        logits = (self.head if self.own_head else self.embedding).logits(hidden)
        logits = logits if self.logit_scale == 1 else logits * self.logit_scale
        return logits if self.logit_cap is None else self.logit_cap * jnp.tanh(logits / self.logit_cap)
