"""The parts every family is built of: norms, projections, and a stack of layers that is scanned."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from prefix_jax.models.attention import Source, attend, attention_weights
from prefix_jax.models.injected import LORA, TUNED, low_rank
from prefix_jax.models.masks import Interval
from prefix_jax.models.prefix import KeyValues, Site
from prefix_jax.models.products import KEPT, as_bits, keep, operand, product, product_transposed

# A collection that a caller asks for with `mutable`, to look inside.
OBSERVED = "observed"

_embedding_init = nn.initializers.normal(0.02)


class Places(Protocol):
    """What holds arrays to their shardings, where there are several devices."""

    def hidden(self, x: Float[Array, "*batch E"]) -> Float[Array, "*batch E"]: ...

    def gathered(self, x: Float[Array, "*batch E"], layer: Any) -> Any: ...

    def table(self, tokens: Float[Array, "V E"]) -> Float[Array, "V E"]: ...

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

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon)
        return (wide * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


class Projection(nn.Module):
    """`[..., *inputs] -> [..., *outputs]`, one matrix product; the kernel is `[*inputs, *outputs]`.

    A kernel of integers has a scale for each output beside it. The product is kept for the gradient unless `kept` says
    that the caller keeps what it makes of it. With `parts`, which divide the outputs' last axis but one, each part
    is a product of its own and the result a tuple: on TPUs that is cheaper than to take a product apart and, for the
    gradient, to join what has three layouts.
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
        y = product(x, kernel.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], *kernel.shape[inputs:])
        return keep(y, kernel.dtype) if self.kept else y

    def _each(self, function: Callable, *arrays: Any) -> Any:
        """Calls a function of arrays, or of the parts of each."""
        if not self.parts:
            return function(*arrays)
        cut = [x if isinstance(x, tuple) else tuple(lax.split(x, self.parts, axis=x.ndim - 2)) for x in arrays]
        return tuple(function(*parts) for parts in zip(*cut, strict=True))

    def operands(self, x: Array) -> Any:
        """The type in which attention over these outputs multiplies: a single query a row gains nothing by rounding."""
        return x.dtype if x.shape[-2] == 1 else self.rounded

    @property
    def rounded(self) -> Any:
        """The type in which the kernel is multiplied."""
        return operand(self.get_variable("params", "kernel")).dtype


class Embedding(nn.Module):
    """Rows of a table by id, in the type `activations` (None: the table's), plus those of learned positions, if any;
    `logits` is the product with all rows, in float32.
    """

    rows: int
    width: int
    max_positions: int = 0
    activations: Any = None
    placement: Places | None = None

    def setup(self) -> None:
        self.tokens = self.param("tokens", _embedding_init, (self.rows, self.width))
        if self.max_positions:
            self.positions = self.param("positions", _embedding_init, (self.max_positions, self.width))

    def __call__(
        self, ids: Array, positions: Array | None = None, put: Callable[[Array], Array] = lambda rows: rows
    ) -> Array:
        """`put` changes the rows before positions are added."""
        rows = put(jnp.take(self._table(), ids, axis=0).astype(self.activations or self.tokens.dtype))
        if positions is None:
            return rows
        # Columns without a token may lie beyond the table. What `take` fills in there by default is not a number, which
        # a weight of zero does not take out of a sum.
        return rows + jnp.take(self.positions, positions, axis=0, mode="clip").astype(rows.dtype)

    def logits(self, hidden: Float[Array, "... E"]) -> Float[Array, "... V"]:
        return product_transposed(hidden.astype(jnp.float32), self._table())

    def _table(self) -> Array:
        return self.tokens if self.placement is None else self.placement.table(self.tokens)


def heads_first(x: Float[Array, "*batch T K N D"]) -> Float[Array, "*batch K N T D"]:
    return jnp.moveaxis(x, -4, -2)


class SelfAttention(nn.Module):
    """Queries, keys and values in one product with a KV-head axis, so that a mesh can split it."""

    kv_heads: int
    groups: int
    head_dim: int
    scale: float
    bias: bool = False
    out_bias: bool = False

    @nn.compact
    def __call__(
        self, x: Array, mask: Any, bias: Any, turn: Callable[[Array], Array], sources: tuple[Source, ...]
    ) -> tuple[Array, KeyValues]:
        """`turn` is applied to queries and keys (rotary); returns the output and this call's keys and values."""
        outputs, parts = (self.kv_heads, self.groups + 2, self.head_dim), (self.groups, 1, 1)
        fused = isinstance(mask, Interval)
        projection = Projection(outputs, bias=self.bias, kept=False, parts=parts if fused else (), name="qkv")
        # Split and not sliced: the gradient of a split is one concatenation.
        query, key, value = projection(x) if fused else lax.split(projection(x), parts, axis=x.ndim)
        query = turn(heads_first(query))
        key, value = turn(heads_first(key)[..., 0, :, :]), heads_first(value)[..., 0, :, :]
        # Kept as attention multiplies them, so that the gradient neither turns nor moves them again.
        query, key, value = (keep(part, projection.rounded) for part in (query, key, value))
        everything = (*sources, Source(key, value, bias, mask))
        out = attend(query, everything, self.scale, projection.operands(x))
        observe(self, query, everything, self.scale)
        out = Projection((x.shape[-1],), inputs=3, bias=self.out_bias, name="out")(jnp.moveaxis(out, -2, -4))
        return out, KeyValues(key, value)


def observe(module: nn.Module, query: Array, sources: tuple[Source, ...], scale: float) -> None:
    """Leaves an attention's weights in the collection `observed`, where the caller of the model asks for it."""
    if module.is_mutable_collection(OBSERVED):
        module.put_variable(OBSERVED, "weights", attention_weights(query, sources, scale))


class GatedMLP(nn.Module):
    width: int
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gate, up = (Projection((self.width,), name=name)(x) for name in ("gate", "up"))
        hidden = self.activation(gate) * up
        return Projection((x.shape[-1],), name="down")(hidden)


class MLP(nn.Module):
    width: int
    activation: Callable[[Array], Array]
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = self.activation(Projection((self.width,), bias=self.bias, name="up")(x))
        return Projection((x.shape[-1],), bias=self.bias, name="down")(hidden)


class Run(NamedTuple):
    """Consecutive layers that carry a prefix at the same sites; `offsets` are their first rows in each site."""

    start: int
    stop: int
    offsets: tuple[int | None, ...]


def layer_runs(count: int, sites: tuple[Site | None, ...], tuned_from: int) -> tuple[Run, ...]:
    """Divides the layers where the set of sites that carry a prefix changes, and before layer `tuned_from`."""
    rows: list[dict[int, int]] = []
    for site in sites:
        layers = () if site is None else range(count) if site.layers is None else site.layers
        rows.append({layer: row for row, layer in enumerate(layers)})
    runs: list[Run] = []
    for layer in range(count):
        here = tuple(row.get(layer) for row in rows)
        if runs and layer != tuned_from and [o is None for o in runs[-1].offsets] == [o is None for o in here]:
            runs[-1] = runs[-1]._replace(stop=layer + 1)
        else:
            runs.append(Run(layer, layer + 1, here))
    return tuple(runs)


class Stack(nn.Module):
    """A block repeated `length` times over weights stacked on a leading axis, as one `lax.scan`.

    The block is called as `block(x, shared, sites, past) -> (x, output)`, `sites` a tuple of prefix sources or None,
    `past` its slice of the caches. Layers without a prefix below the first that has one are a scan of their own: no
    gradient runs through them. A layer keeps its products for the gradient, or with `rematerialise` only its input.
    `placement` holds each layer's input to its sharding. The collection `observed` gets the attention's weights of each
    run of layers, by the first of them. Where the collection `tuned` has weights of the last layers,
    they take the place of those in `params`.
    """

    block: nn.Module
    length: int
    rematerialise: bool = False
    placement: Places | None = None

    @nn.compact
    def __call__(self, x: Array, shared: Any, sites: tuple[Site | None, ...], past: Any) -> tuple[Array, Any]:
        observing = self.is_mutable_collection(OBSERVED) and not self.is_initializing()
        block = self.block.clone(parent=None)
        if self.is_initializing():
            first = jax.tree.map(lambda leaf: leaf[0], past)
            keys = jax.random.split(self.make_rng("params"), self.length)
            stacked = jax.vmap(lambda key: block.init(key, x, shared, (None,) * len(sites), first)["params"])(keys)
            for name, leaf in stacked.items():
                self.put_variable("params", name, leaf)
        variables = {name: tree for name, tree in self.variables.items() if name != OBSERVED}

        def body(x: Array, layer: tuple) -> tuple[Array, Any]:
            frozen, injected, sites_here, past_here = layer
            if self.placement is not None:
                x, frozen = self.placement.hidden(x), self.placement.gathered(x, frozen)
            weights = {**frozen, **injected}
            if not observing:
                return block.apply(weights, x, shared, sites_here, past_here)
            (x, output), seen = block.apply(weights, x, shared, sites_here, past_here, mutable=[OBSERVED])
            return x, (output, seen[OBSERVED])

        kept = () if self.rematerialise else (KEPT,)
        outputs = []
        for run in layer_runs(self.length, sites, _tuned_from(variables, self.length)):
            x, output = _scan_run(body, x, variables, sites, past, run, self.length, kept)
            if observing:
                output, seen = output
                self.put_variable(OBSERVED, str(run.start), seen)
            outputs.append(output)
        return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs) if len(outputs) > 1 else outputs[0]


def _scan_run(
    body: Callable,
    x: Array,
    variables: Any,
    sites: tuple[Site | None, ...],
    past: Any,
    run: Run,
    length: int,
    kept: tuple[str, ...],
) -> tuple[Array, Any]:
    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    count = run.stop - run.start
    frozen, injected = _weights(variables, run, length)
    prefixes = tuple(
        None if site is None or row is None else prefix_source(site, row, count)
        for site, row in zip(sites, run.offsets, strict=True)
    )
    if count == length and not any(_narrow(leaf, x) for leaf in jax.tree.leaves(frozen)):
        whole = (frozen, injected, prefixes, past)
        return lax.scan(jax.checkpoint(body, prevent_cse=False, policy=policy), x, whole)

    # The weights of some of the layers are read in place: slicing them first would copy them.
    def indexed(x: Array, layer: tuple) -> tuple[Array, Any]:
        index, injected_here, prefixes_here = layer
        return body(x, (_layer(frozen, index, x), injected_here, prefixes_here, _layer(past, index, x)))

    # One layer's weights are taken inside the checkpoint, or they would be among what is kept.
    indexed = jax.checkpoint(indexed, prevent_cse=False, policy=policy)
    return lax.scan(indexed, x, (jnp.arange(run.start, run.stop), injected, prefixes))


def _weights(variables: Any, run: Run, length: int) -> tuple[dict, dict]:
    """Returns what is frozen, of all layers, and what a method brings, of those of a run (as trained weights are, lest
    the gradient of each layer be added into an array of all).
    """
    injected = {name: tree for name, tree in variables.items() if name not in ("params", TUNED)}
    injected = jax.tree.map(lambda leaf: leaf[run.start : run.stop], injected)
    first = _tuned_from(variables, length)
    if run.start < first:
        return {"params": variables["params"]}, injected
    rows = jax.tree.map(lambda leaf: leaf[run.start - first : run.stop - first], variables[TUNED])
    return {}, {**injected, "params": rows}


def _tuned_from(variables: Any, length: int) -> int:
    """Returns the first layer whose weights are in the collection `tuned`."""
    tuned = jax.tree.leaves(variables.get(TUNED, {}))
    return length - len(tuned[0]) if tuned else length


def whole_layers(variables: Any, length: int) -> list[dict[str, Any]]:
    """Returns a stack's collections as they are for a block, each leaf stacked over layers: a dictionary for the layers
    whose weights are frozen, and one for those that are tuned.
    """
    first, parts = _tuned_from(variables, length), []
    for start, stop in ((0, first), (first, length)):
        if start < stop:
            frozen, injected = _weights(variables, Run(start, stop, ()), length)
            parts.append({**jax.tree.map(lambda leaf: leaf[start:stop], frozen), **injected})  # noqa: B023
    return parts


def _layer(stacked: Any, index: Array, x: Array) -> Any:
    """Returns one layer's part of stacked arrays."""

    def take(leaf: Array) -> Array:
        if not _narrow(leaf, x):
            return lax.dynamic_index_in_dim(leaf, index, keepdims=False)
        # The barrier ties the bits to this turn of the loop; else all layers would be converted before it.
        leaf, here = lax.optimization_barrier((leaf, index))
        bits = lax.dynamic_index_in_dim(as_bits(leaf), here, keepdims=False)
        return lax.bitcast_convert_type(bits, leaf.dtype)

    return jax.tree.map(take, stacked)


def _narrow(leaf: Array, x: Array) -> bool:
    """Whether weights are bfloat16 under float32 activations, as on a CPU."""
    return leaf.dtype == jnp.bfloat16 and x.dtype == jnp.float32


def prefix_source(site: Site, start: int, count: int) -> Source:
    """Returns the rows of a site as sources stacked over layers; their bias broadcasts over groups and queries."""

    def rows(leaf: Array) -> Array:
        return leaf if leaf.shape[0] == count else leaf[start : start + count]

    bias = None if site.bias is None else rows(site.bias)[:, :, None, None, :]
    return Source(rows(site.key), rows(site.value), bias)


def past_sources(past: tuple, masks: tuple[Array, ...], biases: tuple[Array | None, ...]) -> tuple[Source, ...]:
    """One layer's caches as sources, with the masks and biases that all layers share."""
    return tuple(Source(k, v, b, m) for (k, v), m, b in zip(past, masks, biases, strict=True))


def gather_columns(hidden: Float[Array, "*batch T E"], columns: Array | None) -> Array:
    """Returns the hidden states at `[B, M]` columns, or all of them."""
    return hidden if columns is None else jnp.take_along_axis(hidden, columns[..., None], axis=1)
