"""A block repeated over stacked weights: one scan over the periods of the layer pattern."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from prefix_jax.models.adapter_layers import TUNED
from prefix_jax.models.attention import FUSED_ATTENTION, KVSource
from prefix_jax.models.context import LayerContext
from prefix_jax.models.layers import INTERMEDIATES, Sharder
from prefix_jax.models.matmul import KEPT, as_bits
from prefix_jax.models.model_config import LayerKind
from prefix_jax.models.prefix import KeyValues, PrefixKV


class LayerSlice(NamedTuple):
    """Per-layer inputs of a block: a prefix for each site, and the caches."""

    sites: tuple[KVSource | None, ...] = ()
    caches: tuple[KeyValues, ...] = ()
    cross_cache: KeyValues | None = None

    def within(self, context: LayerContext) -> LayerContext:
        """Returns the layer's context, given the context of its kind."""
        own, cross = (*self.sites, None, None)[:2]
        return context._replace(prefix=own, cross_prefix=cross, caches=self.caches, cross_cache=self.cross_cache)


class Run(NamedTuple):
    """Consecutive layers that carry a prefix at the same sites; `offsets` are their first rows at each site."""

    start: int
    stop: int
    offsets: tuple[int | None, ...]


def layer_runs(count: int, sites: tuple[PrefixKV | None, ...], tuned_from: int) -> tuple[Run, ...]:
    """Splits the layers wherever the set of sites with a prefix changes, and before layer `tuned_from`."""
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
    """A block repeated over weights stacked on a leading axis, as a `lax.scan` over the periods of `pattern`.

    The block is called as `block(x, context) -> (x, output)`. `pattern` gives the kind of each layer; `contexts` has
    one context per kind. The layers below the first prefix are a separate scan without a gradient. Layers store their
    matmul outputs for the gradient, or only their inputs with `rematerialise`. `sharder` constrains each layer's input
    to its sharding. The collection `observed` receives the attention weights of each run of layers, keyed by the index
    of its first layer. Weights of the last layers in the collection `tuned` replace those in `params`.
    """

    block: nn.Module
    pattern: tuple[LayerKind, ...]
    rematerialise: bool = False
    sharder: Sharder | None = None

    @nn.compact
    def __call__(
        self,
        x: Array,
        contexts: Mapping[LayerKind, LayerContext],
        sites: tuple[PrefixKV | None, ...] = (),
        caches: tuple[KeyValues, ...] = (),
        cross_cache: KeyValues | None = None,
    ) -> tuple[Array, Any]:
        observing = self.is_mutable_collection(INTERMEDIATES) and not self.is_initializing()
        block, length = self.block.clone(parent=None), len(self.pattern)
        if self.is_initializing():
            first = jax.tree.map(lambda leaf: leaf[0], LayerSlice((), caches, cross_cache))
            context = first.within(contexts[self.pattern[0]])
            keys = jax.random.split(self.make_rng("params"), length)
            for name, leaf in jax.vmap(lambda key: block.init(key, x, context)["params"])(keys).items():
                self.put_variable("params", name, leaf)
        variables = {name: tree for name, tree in self.variables.items() if name != INTERMEDIATES}

        def body(kind: LayerKind, x: Array, layer: tuple) -> tuple[Array, Any]:
            frozen, injected, own = layer
            if self.sharder is not None:
                x, frozen = self.sharder.hidden(x), self.sharder.gathered(x, frozen)
            weights, context = {**frozen, **injected}, own.within(contexts[kind])
            if not observing:
                return block.apply(weights, x, context)
            (x, output), seen = block.apply(weights, x, context, mutable=[INTERMEDIATES])
            return x, (output, seen[INTERMEDIATES])

        policy = jax.checkpoint_policies.nothing_saveable if self.rematerialise else _kept
        checkpointed = partial(jax.checkpoint, prevent_cse=False, policy=policy)
        outputs = []
        for run in layer_runs(length, sites, _tuned_from(variables, length)):
            scan = _Scan(body, checkpointed, variables, sites, (caches, cross_cache), self.pattern)
            x, output = scan(x, run)
            if observing:
                output, seen = output
                self.put_variable(INTERMEDIATES, str(run.start), seen)
            outputs.append(output)
        return x, _joined(outputs)


def _kept(primitive: Any, *inputs: Any, **parameters: Any) -> bool:
    """Returns whether a layer stores the outputs of a primitive: a checkpoint policy."""
    named = jax.checkpoint_policies.save_only_these_names(KEPT)
    return primitive.name == FUSED_ATTENTION or named(primitive, *inputs, **parameters)


def _joined(outputs: list[Any]) -> Any:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs) if len(outputs) > 1 else outputs[0]


class _Scan(NamedTuple):
    """Scans runs of consecutive layers of a stack."""

    body: Callable[[LayerKind, Array, tuple], tuple[Array, Any]]
    checkpointed: Callable[[Callable], Callable]
    variables: Any
    sites: tuple[PrefixKV | None, ...]
    past: tuple[tuple[KeyValues, ...], KeyValues | None]
    pattern: tuple[LayerKind, ...]

    def __call__(self, x: Array, run: Run) -> tuple[Array, Any]:
        """Scans the whole periods of a run's pattern, then the remaining layers as one shorter period."""
        period = _period(self.pattern[run.start : run.stop])
        rest = run.start + (run.stop - run.start) // period * period
        outputs = []
        for start, stop in ((run.start, rest), (rest, run.stop)):
            if start < stop:
                offsets = tuple(None if row is None else row + start - run.start for row in run.offsets)
                x, output = self._periods(x, Run(start, stop, offsets), min(period, stop - start))
                outputs.append(output)
        return x, _joined(outputs)

    def _periods(self, x: Array, run: Run, period: int) -> tuple[Array, Any]:
        count, length = run.stop - run.start, len(self.pattern)
        frozen, injected = _weights(self.variables, run, length)
        prefixes = tuple(
            None if site is None or row is None else prefix_source(site, row, count)
            for site, row in zip(self.sites, run.offsets, strict=True)
        )
        kinds = self.pattern[run.start : run.start + period]
        if count == length and not any(_narrow(leaf, x) for leaf in jax.tree.leaves(frozen)):
            whole = (frozen, injected, LayerSlice(prefixes, *self.past))
            return _scan_periods(self.checkpointed, [partial(self.body, kind) for kind in kinds], x, whole)

        # Weights of a subset of the layers are read in place, because slicing them first would copy them. Each layer's
        # weights are sliced inside the checkpoint; otherwise they would become residuals.
        def indexed(kind: LayerKind, x: Array, layer: tuple) -> tuple[Array, Any]:
            index, injected_here, prefixes_here = layer
            past = _layer(self.past, index, x)
            return self.body(kind, x, (_layer(frozen, index, x), injected_here, LayerSlice(prefixes_here, *past)))

        rows = (jnp.arange(run.start, run.stop), injected, prefixes)
        return _scan_periods(self.checkpointed, [partial(indexed, kind) for kind in kinds], x, rows)


def _period(kinds: tuple[LayerKind, ...]) -> int:
    """Returns the length of the shortest repeating pattern of the kinds; the last repetition may be partial."""
    return next(n for n in range(1, len(kinds) + 1) if all(a == b for a, b in zip(kinds, kinds[n:], strict=False)))


def _scan_periods(checkpointed: Callable, bodies: list[Callable], x: Array, layers: Any) -> tuple[Array, Any]:
    """Scans `bodies`, one per layer of a period, over arrays stacked along a leading layer axis."""
    period = len(bodies)
    if period == 1:
        return lax.scan(checkpointed(bodies[0]), x, layers)

    def all_of_a_period(x: Array, rows: Any) -> tuple[Array, Any]:
        outputs = []
        for place, body in enumerate(bodies):
            own = checkpointed(lambda x, rows, n=place, body=body: body(x, jax.tree.map(lambda leaf: leaf[n], rows)))
            x, output = own(x, rows)
            outputs.append(output)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    periods = jax.tree.map(lambda leaf: leaf.reshape(-1, period, *leaf.shape[1:]), layers)
    x, outputs = lax.scan(all_of_a_period, x, periods)
    return x, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outputs)


def _weights(variables: Any, run: Run, length: int) -> tuple[dict, dict]:
    """Returns the frozen parameters of all layers, and the method's collections sliced to a run of layers.

    Slicing keeps per-layer gradients from accumulating into an array of all layers. Trained weights are sliced too.
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
    """Returns a stack's collections as a block takes them, with leaves stacked over layers: one dictionary for frozen
    layers and one for tuned layers.
    """
    first, parts = _tuned_from(variables, length), []
    for start, stop in ((0, first), (first, length)):
        if start < stop:
            frozen, injected = _weights(variables, Run(start, stop, ()), length)
            parts.append({**jax.tree.map(lambda leaf: leaf[start:stop], frozen), **injected})  # noqa: B023
    return parts


def _layer(stacked: Any, index: Array, x: Array) -> Any:
    """Returns one layer's slice of stacked arrays."""

    def take(leaf: Array) -> Array:
        if not _narrow(leaf, x):
            return lax.dynamic_index_in_dim(leaf, index, keepdims=False)
        # The barrier ties the bits to this loop iteration; otherwise all layers would be converted before the loop.
        leaf, here = lax.optimization_barrier((leaf, index))
        bits = lax.dynamic_index_in_dim(as_bits(leaf), here, keepdims=False)
        return lax.bitcast_convert_type(bits, leaf.dtype)

    return jax.tree.map(take, stacked)


def _narrow(leaf: Array, x: Array) -> bool:
    """Returns whether weights are bfloat16 under float32 activations, as on CPUs."""
    return leaf.dtype == jnp.bfloat16 and x.dtype == jnp.float32


def prefix_source(site: PrefixKV, start: int, count: int) -> KVSource:
    """Returns layers of a site as a KV source stacked over them; its bias broadcasts over groups and queries."""

    def rows(leaf: Array) -> Array:
        return leaf if leaf.shape[0] == count else leaf[start : start + count]

    bias = None if site.bias is None else rows(site.bias)[..., None, None, :]
    return KVSource(rows(site.key), rows(site.value), bias)
