"""umT5 (Chung et al. 2023): T5 1.1 with a relative position bias of its own in every layer."""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Int

from prefix_jax.models.context import LayerContext
from prefix_jax.models.encoder_decoder import Side
from prefix_jax.models.families import t5
from prefix_jax.models.families.family import Family
from prefix_jax.models.layers import SelfAttention
from prefix_jax.models.masks import mask_pair, rows_of
from prefix_jax.models.prefix import KeyValues


@dataclass(frozen=True, kw_only=True)
class UMT5Config(t5.T5Config):
    family: ClassVar[str] = "umt5"
    hashed_as: ClassVar[str] = ""
    layer_bias: ClassVar[bool] = True


class BiasedAttention(SelfAttention):
    """Self-attention with a table of biases; the context has the buckets of distances in place of biases."""

    buckets: int = 32

    @nn.compact
    def __call__(self, x: Array, context: LayerContext) -> tuple[Array, KeyValues]:
        table = self.param("relative_bias", nn.initializers.normal(0.1), (self.buckets, self.kv_heads))
        assert context.bias is not None
        own = mask_pair(t5.bias_of(table, rows_of(context.bias)))
        caches = tuple(None if buckets is None else t5.bias_of(table, buckets) for buckets in context.cache_biases)
        return super().__call__(x, context._replace(bias=own, cache_biases=caches))


class UMT5Side(t5.T5Side):
    model_config: UMT5Config

    def make_attention(self) -> nn.Module:
        s = self.model_config
        return BiasedAttention(s.heads, 1, s.head_dim, scale=1.0, buckets=s.buckets)

    def bias(self, queries: Int[Array, "*rows T"], keys: Int[Array, "... S"]) -> Array:
        """Returns the buckets, which each layer turns into biases."""
        return self.buckets(queries, keys)


class UMT5(t5.T5):
    model_config: UMT5Config
    side: ClassVar[type[Side]] = UMT5Side


def read(c: dict[str, Any]) -> UMT5Config:
    scaled = c.get("tie_word_embeddings", True)
    return UMT5Config(**t5.sizes_of({"feed_forward_proj": "gated-gelu", **c}), scale_outputs=scaled)


def sizes(layers: int, width: int, heads: int, inner: int) -> dict[str, Any]:
    shape = t5.sizes(layers, width, heads, 64, inner, gated=True)
    return {**shape, "model_type": "umt5", "vocab_size": 256384}


FAMILY = Family(
    title="umT5",
    model_config=UMT5Config,
    network=UMT5,
    readers={"umt5": read},
    parameters=t5.parameters,
    modules=t5.modules,
    anchor="encoder.final_layer_norm.weight",
    known={
        "umt5-small": sizes(8, 512, 6, 1024),
        "umt5-base": sizes(12, 768, 12, 2048),
        "umt5-xxl": sizes(24, 4096, 64, 10240),
    },
)
