"""Building blocks of all families: norms, projections, attention, MLPs, and the transformer block."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from prefix_jax.models.adapter_layers import LORA, Adapter, low_rank
from prefix_jax.models.attention import KVSource, attend, attention_weights, rotate
from prefix_jax.models.context import LayerContext
from prefix_jax.models.masks import Interval
from prefix_jax.models.matmul import matmul, matmul_transposed, operand, save_residual
from prefix_jax.models.prefix import KeyValues

# Collection of attention weights and queries, filled if the caller passes it as `mutable`.
INTERMEDIATES = "observed"

# By the names that `config.json` has for them.
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}

_embedding_init = nn.initializers.normal(0.02)


class Sharder(Protocol):
    """Constrains arrays to their shardings on a mesh of several devices."""

    def hidden(self, x: Float[Array, "*batch E"]) -> Float[Array, "*batch E"]: ...

    def gathered(self, x: Float[Array, "*batch E"], layer: Any) -> Any: ...

    def table(self, tokens: Float[Array, "V E"]) -> Float[Array, "V E"]: ...

    def cache(self, x: Float[Array, "layers rows K S D"]) -> Float[Array, "layers rows K S D"]: ...

    def everywhere(self, x: Array) -> Array: ...

    def own_rows_of(self, run: Callable, rows: tuple[Array, ...], rest: Any) -> Array: ...

    def divided(self, run: Callable, operands: Any, axes: Any, result: Any) -> Any: ...


class RMSNorm(nn.Module):
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon)
        return (wide * scale.astype(jnp.float32)).astype(x.dtype)


class LayerNorm(nn.Module):
    epsilon: float
    offset: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)) if self.offset else None
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon)
        wide = wide * scale.astype(jnp.float32)
        return (wide if bias is None else wide + bias.astype(jnp.float32)).astype(x.dtype)


class Projection(nn.Module):
    """`[..., *inputs] -> [..., *outputs]`, one matrix product; the kernel is `[*inputs, *outputs]`.

    An integer kernel is accompanied by a scale for each output. The product is stored as a residual unless `kept` is
    False because the caller stores a function of it. `parts` splits the outputs' second to last axis into separate
    products and returns a tuple: on TPUs that is cheaper than splitting one product and, in the backward pass,
    concatenating gradients of three layouts.
    """

    outputs: tuple[int, ...]
    inputs: int = 1
    bias: bool = False
    kept: bool = True
    parts: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array) -> Any:
        inner = x.shape[-self.inputs :]
        x = x.reshape(*x.shape[: -self.inputs], -1)
        init = nn.initializers.lecun_normal(range(self.inputs), range(self.inputs, len(inner + self.outputs)))
        kernel = operand(self.param("kernel", init, inner + self.outputs))
        y = self._each(lambda part: self._product(x, part, len(inner)), kernel)
        if self.has_variable("params", "scale"):
            y = self._each(lambda y, scale: y * scale.astype(y.dtype), y, self.get_variable("params", "scale"))
        if lora := self.variables.get(LORA):
            y = self._each(jnp.add, y, low_rank(x, lora, self.outputs))
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, self.outputs)
            y = self._each(lambda y, bias: y + bias.astype(y.dtype), y, bias)
        return y

    def _product(self, x: Float[Array, "*batch C"], kernel: Array, inputs: int) -> Array:
        y = matmul(x, kernel.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], *kernel.shape[inputs:])
        return save_residual(y, kernel.dtype) if self.kept else y

    def _each(self, function: Callable, *arrays: Any) -> Any:
        """Calls a function on arrays, or on each of their parts."""
        if not self.parts:
            return function(*arrays)
        cut = [x if isinstance(x, tuple) else tuple(lax.split(x, self.parts, axis=x.ndim - 2)) for x in arrays]
        return tuple(function(*parts) for parts in zip(*cut, strict=True))

    def compute_dtype(self, x: Array) -> Any:
        """Returns the dtype of attention over these outputs: rounding does not pay off for a single query per row."""
        return x.dtype if x.shape[-2] == 1 else self.rounded

    @property
    def rounded(self) -> Any:
        """Returns the dtype in which the kernel is multiplied."""
        return operand(self.get_variable("params", "kernel")).dtype


class Embedding(nn.Module):
    """Looks up rows of a table by id and scales them; adds learned positions, if any. `logits` is the float32 product
    with all rows, plus an optional bias. `activations` is the output dtype (None: the table's), `position_width` the
    width of positions where it is not that of the rows.
    """

    rows: int
    width: int
    max_positions: int = 0
    activations: Any = None
    sharder: Sharder | None = None
    scale: float = 1.0
    bias: bool = False
    position_width: int = 0

    def setup(self) -> None:
        self.tokens = self.param("tokens", _embedding_init, (self.rows, self.width))
        if self.max_positions:
            self.positions = self.param(
                "positions", _embedding_init, (self.max_positions, self.position_width or self.width)
            )
        if self.bias:
            self.logits_bias = self.param("bias", nn.initializers.zeros, (self.rows,))

    def __call__(
        self, ids: Array, positions: Array | None = None, put: Callable[[Array], Array] = lambda rows: rows
    ) -> Array:
        """Returns embeddings; `put` transforms the rows, and may change their width, before positions are added."""
        rows = jnp.take(self._table(), ids, axis=0).astype(self.activations or self.tokens.dtype)
        rows = put(rows if self.scale == 1 else rows * jnp.asarray(self.scale, rows.dtype))
        if positions is None:
            return rows
        # Padding columns may exceed the table. The default mode of `take` would return NaN, which survives a weight of
        # zero in a sum.
        return rows + jnp.take(self.positions, positions, axis=0, mode="clip").astype(rows.dtype)

    def logits(self, hidden: Float[Array, "... E"]) -> Float[Array, "... V"]:
        logits = matmul_transposed(hidden.astype(jnp.float32), self._table())
        return logits + self.logits_bias.astype(jnp.float32) if self.bias else logits

    def _table(self) -> Array:
        return self.tokens if self.sharder is None else self.sharder.table(self.tokens)


def heads_first(x: Float[Array, "*batch T K N D"]) -> Float[Array, "*batch K N T D"]:
    return jnp.moveaxis(x, -4, -2)


class SelfAttention(nn.Module):
    """Self-attention with queries, keys and values in one product with a KV-head axis, which a mesh can shard.

    With `head_norm`, an epsilon, queries and keys have an RMS norm of their own over each head. `interleaved` says
    which numbers of a head rotary positions pair (see `attention.rotate`). `cap` is the soft cap of logits, and `clip`
    the largest magnitude of queries, keys and values.
    """

    kv_heads: int
    groups: int
    head_dim: int
    scale: float
    bias: bool = False
    out_bias: bool = False
    head_norm: float | None = None
    interleaved: bool = False
    cap: float | None = None
    clip: float | None = None

    @nn.compact
    def __call__(self, x: Array, context: LayerContext) -> tuple[Array, KeyValues]:
        """Returns the output and this call's keys and values."""
        outputs, parts = (self.kv_heads, self.groups + 2, self.head_dim), (self.groups, 1, 1)
        # The TPU's kernel wants three layouts, whose gradients cost more to join than three products.
        apart = isinstance(context.mask, Interval) and context.mask.kernel == "pallas"
        projection = Projection(outputs, bias=self.bias, kept=False, parts=parts if apart else (), name="qkv")
        # Split, not sliced: the gradient of a split is one concatenation.
        query, key, value = projection(x) if apart else lax.split(projection(x), parts, axis=x.ndim)
        if self.clip is not None:
            query, key, value = (jnp.clip(part, -self.clip, self.clip) for part in (query, key, value))
        query = self._positioned("query_norm", heads_first(query), context, x.ndim)
        key = self._positioned("key_norm", heads_first(key)[..., 0, :, :], context, x.ndim)
        # Stored in the layout and dtype that attention uses, so that the backward pass need not rotate or move them.
        query, key, value = (
            save_residual(part, projection.rounded) for part in (query, key, heads_first(value)[..., 0, :, :])
        )
        sources = (*self._sinks(key), *context.sources(KeyValues(key, value)))
        out = attend(query, sources, self.scale, projection.compute_dtype(x), self.cap)
        observe(self, query, sources, self.scale, self.cap)
        out = Projection((x.shape[-1],), inputs=3, bias=self.out_bias, name="out")(jnp.moveaxis(out, -2, -4))
        return out, KeyValues(key, value)

    def _positioned(self, norm: str, heads: Array, context: LayerContext, rank: int) -> Array:
        """Applies a head's norm and rotary positions, where the model has them; `rank` is that of hidden states."""
        heads = self._normed(norm, heads)
        if context.rotary is None:
            return heads
        lead = (1,) * (heads.ndim - rank)  # head axes, between the batch axes and the token axis
        angles = tuple(part.reshape(*part.shape[:-2], *lead, *part.shape[-2:]) for part in context.rotary)
        return rotate(heads, (angles[0], angles[1]), self.interleaved)

    def _normed(self, norm: str, heads: Array) -> Array:
        return heads if self.head_norm is None else RMSNorm(self.head_norm, name=norm)(heads)

    def _sinks(self, key: Array) -> tuple[KVSource, ...]:
        """Returns the sources in front of all others; `key` is that of the tokens."""
        return ()


class SinkAttention(SelfAttention):
    """With a logit for each query head that takes part in the softmax and stands for no token (Xiao et al. 2023).

    It is a source with one key and one value of zeros, whose bias is the logit.
    """

    def _sinks(self, key: Array) -> tuple[KVSource, ...]:
        sinks = self.param("sinks", nn.initializers.zeros, (self.kv_heads, self.groups))
        zeros = jnp.zeros((self.kv_heads, 1, self.head_dim), key.dtype)
        return (KVSource(zeros, zeros, sinks.astype(jnp.float32)[..., None, None]),)


class LayerNormAttention(SelfAttention):
    """With a layer norm of queries and one of keys, over each head."""

    def _normed(self, norm: str, heads: Array) -> Array:
        return heads if self.head_norm is None else LayerNorm(self.head_norm, name=norm)(heads)


class OwnScaleAttention(SelfAttention):
    """With a layer norm without bias of each head, which has a scale of its own."""

    def _normed(self, norm: str, heads: Array) -> Array:
        if self.head_norm is None:
            return heads
        wide = heads.astype(jnp.float32)
        wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.head_norm)
        return (wide * self._scales(norm)).astype(heads.dtype)

    def _scales(self, norm: str) -> Array:
        """Returns the scales of all heads in float32, `[K, G, 1, D]` of queries and `[K, 1, D]` of keys."""
        queries = norm == "query_norm"
        # With one group, the scales of queries are stored as those of keys.
        inner = (self.kv_heads, self.groups) if queries and self.groups > 1 else (self.kv_heads,)
        scale = HeadScale((*inner, self.head_dim), name=norm)()[..., None, :].astype(jnp.float32)
        return scale[:, None] if queries and self.groups == 1 else scale


class WholeNormAttention(OwnScaleAttention):
    """With one RMS norm over the queries of all heads of a token, and one over its keys."""

    def _normed(self, norm: str, heads: Array) -> Array:
        if self.head_norm is None:
            return heads
        # Queries are [..., K, G, T, D] and keys [..., K, T, D].
        axes = (-4, -3, -1) if norm == "query_norm" else (-3, -1)
        wide = heads.astype(jnp.float32)
        wide = wide * lax.rsqrt(jnp.mean(wide * wide, axes, keepdims=True) + self.head_norm)
        return (wide * self._scales(norm)).astype(heads.dtype)


class HeadScale(nn.Module):
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("scale", nn.initializers.ones, self.shape)


class CrossAttention(nn.Module):
    """Attention over encoder states, whose keys and values are computed here unless the context has them."""

    heads: int
    head_dim: int
    width: int
    scale: float = 1.0
    bias: bool = False

    def setup(self) -> None:
        self.query = Projection((self.heads, 1, self.head_dim), bias=self.bias)
        self.key_value = Projection((self.heads, 2, self.head_dim), bias=self.bias)
        self.out = Projection((self.width,), inputs=3, bias=self.bias)

    def __call__(self, x: Array, context: LayerContext) -> Array:
        memory = self._key_values(context.memory) if context.cross_cache is None else context.cross_cache
        query, sources = heads_first(self.query(x)), context.cross_sources(memory)
        out = attend(query, sources, self.scale, compute_dtype=self.query.compute_dtype(x))
        observe(self, query, sources, self.scale)
        return self.out(jnp.moveaxis(out, -2, -4))

    def _key_values(self, memory: Array | None) -> KeyValues:
        assert memory is not None, "cross-attention needs the encoder's states or their keys and values"
        both = heads_first(self.key_value(memory))
        return KeyValues(both[..., 0, :, :], both[..., 1, :, :])


def observe(
    module: nn.Module, query: Array, sources: tuple[KVSource, ...], scale: float, cap: float | None = None
) -> None:
    """Leaves an attention's weights and scaled queries in the collection `observed`, where the caller asks for it.

    The shares of sinks are left out, as they belong to no slot and no token. What the caller does not use is not
    computed in a compiled program.
    """
    if module.is_mutable_collection(INTERMEDIATES):
        weights = attention_weights(query, sources, scale, cap)
        sinks = int(isinstance(module, SinkAttention))
        module.put_variable(INTERMEDIATES, "weights", weights[..., sinks:])
        module.put_variable(INTERMEDIATES, "queries", query.astype(jnp.float32) * scale)


class GatedMLP(nn.Module):
    width: int
    activation: Callable[[Array], Array]
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gate, up = (Projection((self.width,), bias=self.bias, name=name)(x) for name in ("gate", "up"))
        hidden = self.activation(gate) * up
        return Projection((x.shape[-1],), bias=self.bias, name="down")(hidden)


class MLP(nn.Module):
    width: int
    activation: Callable[[Array], Array]
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = self.activation(Projection((self.width,), bias=self.bias, name="up")(x))
        return Projection((x.shape[-1],), bias=self.bias, name="down")(hidden)


class Block(nn.Module):
    """A transformer layer: self-attention, optional cross-attention, and an MLP, each with a residual connection.

    Attributes:
      norm: makes a norm of a given name.
      norms: where the norms of a sublayer f are. "before": x + f(norm(x)). "after": norm(x + f(x)). "both":
        x + norm(f(norm(x))). "post": x + norm(f(x)). "parallel": x + attention(norm(x)) + MLP(norm(x)), with one norm;
        "parallel_two": with a norm each.
      residual: what a sublayer's output is multiplied by before it is added.
    """

    attention: nn.Module
    mlp: nn.Module
    norm: Callable[..., nn.Module]
    cross: nn.Module | None = None
    norms: Literal["before", "after", "both", "post", "parallel", "parallel_two"] = "before"
    residual: float = 1.0

    @nn.compact
    def __call__(self, x: Array, context: LayerContext) -> tuple[Array, KeyValues]:
        attention: Any = self.attention
        if self.norms in ("parallel", "parallel_two"):
            normed = self.norm(name="attention_norm")(x)
            attended, key_values = attention(normed, context)
            normed = self.norm(name="mlp_norm")(x) if self.norms == "parallel_two" else normed
            inner = Adapter(name="mlp_adapter")(self._call(self.mlp, normed))
            return x + Adapter(name="attention_adapter")(attended) + inner, key_values
        attended, key_values = attention(self._before("attention", x), context)
        x = self._add("attention", x, attended)
        if self.cross is not None:
            x = self._add("cross", x, self._call(self.cross, self._before("cross", x), context))
        return self._add("mlp", x, self._call(self.mlp, self._before("mlp", x))), key_values

    def _call(self, module: Any, *arguments: Any) -> Array:
        return module(*arguments)

    def _before(self, name: str, x: Array) -> Array:
        return x if self.norms in ("after", "post") else self.norm(name=f"{name}_norm")(x)

    def _add(self, name: str, x: Array, y: Array) -> Array:
        if self.norms in ("both", "post"):
            y = self.norm(name=f"{name}_post_norm")(y)
        if self.residual != 1:
            y = y * jnp.asarray(self.residual, y.dtype)
        x = x + Adapter(name=f"{name}_adapter")(y)
        return self.norm(name=f"{name}_norm")(x) if self.norms == "after" else x


def gather_columns(hidden: Float[Array, "*batch T E"], columns: Array | None) -> Array:
    """Returns the hidden states at `[B, M]` columns, or all of them if None."""
    return hidden if columns is None else jnp.take_along_axis(hidden, columns[..., None], axis=1)
