"""Attention over a prefix and tokens as one TPU kernel: logits and weights never reach the chip's main memory.

Every mask of a packed batch is an interval: a query sees the keys from the start of its segment to its last visible
one. The kernel visits only the key blocks that some query of its block sees. Prefix and tokens share one softmax
(Milakov and Gimelshein 2018; Dao et al. 2022): the forward kernel stores each query's log-sum-exp, from which the
backward kernel recomputes the weights of both parts once, for all gradients.

All arrays are transposed: queries and keys lie along the lanes, half of which a head of 64 would leave empty; weights
are keys by queries, so that per-query values are rows and sums over keys need no lane shuffles. One kernel call holds
all queries and keys of one batch row and one head in VMEM.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from prefix_jax.models.masks import MASKED, Interval
from prefix_jax.models.matmul import precision, save_vjp_residual

# The log-sum-exp of a query that sees nothing: its weights are 0.
NOTHING = 1e30
# Queries and keys per block. A tile has 128 lanes and, in bfloat16, 16 rows.
BLOCK = 256
LANES, ROWS = 128, 16
# VMEM used by a kernel besides its arrays, and the total it may use. The smallest capacity, v5p's, is 64 MiB.
_MARGIN, _MOST = 8 * 2**20, 56 * 2**20


# Inputs and outputs of a kernel. Shapes, blocks and a kernel's references are grouped in the same tuples.


class Slots(NamedTuple):
    """A prefix padded to whole tiles; `bias` closes padding and masked slots."""

    key: Any  # [K, P, D]
    value: Any  # [K, P, D]
    bias: Any  # [K, P, 1], float32


class _Inputs(NamedTuple):
    """Inputs of attention, padded to whole blocks; queries, keys, values and (in a kernel) slots share one dtype."""

    query: Any  # [B, K, G, D, T]
    key: Any  # [B, K, D, S]
    value: Any  # [B, K, D, S]
    slots: Any
    bias: Any  # [K, S, T] in float32, or None
    first: Any  # [B, N, block]
    last: Any  # [B, N, block]


class _Outputs(NamedTuple):
    out: Any  # [B, K, G, D, T]
    total: Any  # [B, K, G, N, block]: log-sum-exp of each query


class _Back(NamedTuple):
    """Inputs of the backward kernel."""

    out: Any  # [B, K, G, D, T]: gradient of the output
    total: Any  # as in `_Outputs`
    mean: Any  # [B, K, G, N, block]: mean gradient of the weights, weighted by the weights


class _Gradients(NamedTuple):
    query: Any
    key: Any
    value: Any
    slots: Any
    bias: Any  # [K, S, T], or None if it is frozen


# Array axes as sharded by a mesh.
_QUERY, _KEY = ("rows", "kv_heads", "query_groups", None, None), ("rows", "kv_heads", None, None)
_HEAD, _SEEN = ("kv_heads", None, None), ("rows", None, None)


def fits(
    query: Float[Array, "B K G T D"], key: Float[Array, "B K S D"], slots: int, biased: bool, operands: Any
) -> bool:
    """Returns whether a kernel's arrays fit in VMEM: true for rows of 8,192, heads of 128 and bfloat16."""
    queries, keys = (length + _missing(length) for length in (query.shape[-2], key.shape[-2]))
    batch, heads, groups, _, width = query.shape
    sizes = _Sizes(batch, heads, groups, queries, keys, width, slots)
    return sizes.memory(jnp.dtype(operands).itemsize, biased) <= _MOST


def _missing(length: int) -> int:
    """Returns the padding that completes the last block."""
    return -length % LANES


def attend(
    query: Float[Array, "B K G T D"],
    key: Float[Array, "B K S D"],
    value: Float[Array, "B K S D"],
    prefix: tuple[Array, Array, Array | None] | None,
    bias: Float[Array, "K 1 T S"] | None,
    seen: Interval,
    scale: float,
    operands: Any,
) -> Float[Array, "B K G T D"]:
    """Computes softmax attention over a prefix visible to all queries and each query's interval of keys, in one kernel.

    `prefix` is its keys and values `[K, P, D]` and the bias of its slots' logits, `[K, 1, 1, P]` or None. Matmul
    operands have the dtype `operands`; logits, softmax and sums are float32.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    more_queries, more_keys = _missing(queries), _missing(keys)

    def in_blocks(x: Array, nothing: int) -> Array:
        x = jnp.pad(x, ((0, 0), (0, more_queries)), constant_values=nothing)
        return x.reshape(x.shape[0], -1, _block(x.shape[1]))

    def longer(x: Array, more: int) -> Array:
        return jnp.pad(jnp.swapaxes(x.astype(operands), -1, -2), ((0, 0),) * (x.ndim - 1) + ((0, more),))

    inputs = _Inputs(
        query=longer(query, more_queries),
        key=longer(key, more_keys),
        value=longer(value, more_keys),
        slots=_slots(prefix, query.shape[1], query.shape[-1]),
        bias=None if bias is None else _transposed(bias, more_queries, more_keys),
        first=in_blocks(seen.first, keys),
        last=in_blocks(seen.last, -1),
    )
    run = functools.partial(_attend, scale)
    if seen.sharder is not None:
        axes = _Inputs(_QUERY, _KEY, _KEY, Slots(*[_HEAD] * 3), None if bias is None else _HEAD, _SEEN, _SEEN)
        out = seen.sharder.divided(run, inputs, axes, _QUERY)
    else:
        out = run(inputs)
    return jnp.swapaxes(out[..., :queries], -1, -2).astype(query.dtype)


def _slots(prefix: tuple[Array, Array, Array | None] | None, heads: int, width: int) -> Slots:
    """Pads a prefix to whole tiles in its own dtype, that of its gradient; None gives one tile of closed slots."""
    if prefix is None:
        nothing = jnp.zeros((heads, ROWS, width))
        return Slots(nothing, nothing, jnp.full((heads, ROWS, 1), MASKED))
    key, value, bias = prefix
    count = key.shape[1]
    more = ((0, 0), (0, -count % ROWS), (0, 0))
    bias = jnp.zeros((heads, count, 1)) if bias is None else bias.reshape(heads, count, 1).astype(jnp.float32)
    return Slots(
        jnp.pad(key, more),
        jnp.pad(value, more),
        jnp.pad(jnp.maximum(bias, MASKED), more, constant_values=MASKED),
    )


def _transposed(bias: Float[Array, "K 1 T S"], more_queries: int, more_keys: int) -> Float[Array, "K keys queries"]:
    bias = jnp.swapaxes(bias[:, 0], -1, -2).astype(jnp.float32)
    return jnp.pad(bias, ((0, 0), (0, more_keys), (0, more_queries)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scale: float, inputs: _Inputs) -> Float[Array, "B K G D T"]:
    return _forward(scale, inputs).out


def _attend_fwd(scale: float, inputs: _Inputs) -> tuple[Array, tuple]:
    # The bias is trained only if a whole T5 is tuned.
    tuned = () if inputs.bias is not None and inputs.bias.perturbed else None
    inputs = jax.tree.map(lambda leaf: leaf.value, inputs)
    out, total = (save_vjp_residual(x) for x in _forward(scale, inputs))
    return out, (inputs, _Outputs(out, total), tuned)


def _attend_bwd(scale: float, kept: tuple, g: Any) -> tuple[_Inputs]:
    inputs, outputs, tuned = kept
    found = _backward(scale, inputs, outputs, g, tuned is not None)
    slots = Slots(*(d.astype(s.dtype) for d, s in zip(found.slots, inputs.slots, strict=True)))
    bias = jnp.zeros_like(inputs.bias) if found.bias is None and inputs.bias is not None else found.bias
    return (_Inputs(found.query, found.key, found.value, slots, bias, first=None, last=None),)


_attend.defvjp(_attend_fwd, _attend_bwd, symbolic_zeros=True)


class _Sizes(NamedTuple):
    """Sizes of one call; `block` queries and `key_block` keys are processed at a time."""

    batch: int
    heads: int
    groups: int
    queries: int
    keys: int
    width: int
    slots: int

    @classmethod
    def of(cls, inputs: _Inputs) -> "_Sizes":
        batch, heads, groups, width, queries = inputs.query.shape
        return cls(batch, heads, groups, queries, inputs.key.shape[-1], width, inputs.slots.key.shape[1])

    @property
    def block(self) -> int:
        return _block(self.queries)

    @property
    def key_block(self) -> int:
        return _block(self.keys)

    def memory(self, itemsize: int, biased: bool) -> int:
        """Returns the VMEM in bytes of the backward kernel, the larger of the two, with a trained bias if `biased`:
        each array block twice, because the next call's is prefetched, and the accumulators.
        """
        arrays = itemsize * self.width * (3 * self.queries + 4 * self.keys)
        slots = 2 * self.slots * (self.width * (itemsize + 4) + 4 * LANES)
        biases = 2 * biased * 4 * self.queries * self.keys
        return 2 * (arrays + slots + biases) + 2 * 4 * self.keys * self.width + _MARGIN

    @property
    def totals(self) -> tuple[int, ...]:
        return (self.batch, self.heads, self.groups, self.queries // self.block, self.block)


def _block(length: int) -> int:
    return BLOCK if length % BLOCK == 0 else LANES


def _forward(scale: float, inputs: _Inputs) -> _Outputs:
    sizes = _Sizes.of(inputs)
    shapes = _Outputs(_shape(inputs.query), jax.ShapeDtypeStruct(sizes.totals, jnp.float32))
    return _call(functools.partial(_forward_kernel, scale, sizes), sizes, 2, [], shapes, inputs)


def _backward(scale: float, inputs: _Inputs, outputs: _Outputs, g: Array, tuned: bool) -> _Gradients:
    """Returns the gradients, including that of the bias if it is `tuned`."""
    sizes, wide = _Sizes.of(inputs), jnp.float32
    mean = (g.astype(wide) * outputs.out.astype(wide)).sum(-2).reshape(sizes.totals)
    back = _Back(g.astype(inputs.query.dtype), outputs.total, mean)
    shapes = _Gradients(
        *map(_shape, inputs[:3]),
        slots=Slots(*(jax.ShapeDtypeStruct(x.shape, wide) for x in inputs.slots)),
        bias=_shape(inputs.bias) if tuned else None,
    )
    sums = [pltpu.VMEM((sizes.width, sizes.keys), wide)] * 2
    return _call(functools.partial(_backward_kernel, scale, sizes), sizes, 5, sums, shapes, inputs, back)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _specs(sizes: _Sizes, arrays: Any) -> Any:
    """Returns the block specs of arrays: one batch row, one head, one group."""
    whole: Any = pl.BlockSpec((None, None, None, sizes.width, sizes.queries), lambda k, b, g, *_: (b, k, g, 0, 0))
    rows: Any = pl.BlockSpec((None, None, None, *sizes.totals[3:]), lambda k, b, g, *_: (b, k, g, 0, 0))
    keys: Any = pl.BlockSpec((None, None, sizes.width, sizes.keys), lambda k, b, g, *_: (b, k, 0, 0))
    seen: Any = pl.BlockSpec((None, *sizes.totals[3:]), lambda k, b, g, *_: (b, 0, 0))

    def head(*shape: int) -> Any:
        return pl.BlockSpec((None, *shape), lambda k, b, g, *_: (k, 0, 0))

    slot = head(sizes.slots, sizes.width)
    slots = Slots(slot, slot, head(sizes.slots, 1))
    bias = head(sizes.keys, sizes.queries) if getattr(arrays, "bias", None) is not None else None
    return {
        _Inputs: _Inputs(whole, keys, keys, slots, bias, seen, seen),
        _Outputs: _Outputs(whole, rows),
        _Back: _Back(whole, rows, rows),
        _Gradients: _Gradients(whole, keys, keys, slots, bias),
    }[type(arrays)]


def _call(kernel: Any, sizes: _Sizes, matmul: int, sums: list, shapes: Any, *operands: Any) -> Any:
    """Runs a kernel over heads, batch rows and groups: compiled on TPUs, interpreted elsewhere.

    Groups are innermost, then the batch: gradients of keys are summed over groups, those of slots over both.
    """
    inputs: _Inputs = operands[0]
    low, slots = inputs.query.dtype, inputs.slots
    operands = (inputs._replace(slots=Slots(slots.key.astype(low), slots.value.astype(low), slots.bias)), *operands[1:])
    start, stop = _bounds(sizes, inputs)
    pairs = sizes.batch * sizes.heads * sizes.groups * sizes.queries * (sizes.keys + sizes.slots)
    arrays = jax.tree.leaves((operands, shapes))
    moved = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)

    def call(interpret: bool) -> Any:
        return pl.pallas_call(
            kernel,
            out_shape=(shapes,),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=2,
                grid=(sizes.heads, sizes.batch, sizes.groups),
                in_specs=[_specs(sizes, each) for each in operands],
                out_specs=(_specs(sizes, shapes),),
                scratch_shapes=sums,
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary", "arbitrary"),
                vmem_limit_bytes=sizes.memory(low.itemsize, inputs.bias is not None),
            ),
            cost_estimate=pl.CostEstimate(
                flops=2 * matmul * pairs * sizes.width, transcendentals=pairs, bytes_accessed=moved
            ),
            interpret=interpret,
            name="prefix_attention" if matmul == 2 else "prefix_attention_gradient",
        )

    (found,) = lax.platform_dependent(start, stop, *operands, tpu=call(False), default=call(True))
    return found


def _bounds(sizes: _Sizes, inputs: _Inputs) -> tuple[Int[Array, "blocks"], Int[Array, "blocks"]]:
    """Returns, for each block of queries in each row, the first key block that any of them sees and one past the last.
    Flat, because each row of an array of scalars would occupy a whole tile.
    """
    none = inputs.first > inputs.last
    start = jnp.where(none, sizes.keys, inputs.first).min(-1) // sizes.key_block
    stop = jnp.where(none, -1, inputs.last).max(-1) // sizes.key_block + 1
    return start.reshape(-1), stop.reshape(-1)


def _forward_kernel(scale: float, sizes: _Sizes, start: Any, stop: Any, inputs: Any, outputs: Any) -> None:
    """Processes one head of one batch row. `start` and `stop` are scalars indexed by row and query block."""
    blocks, slots = sizes.queries // sizes.block, inputs.slots
    before = pl.program_id(1) * blocks

    def queries(i: Array, _: None) -> None:
        at = _at(i, sizes.block)
        query = _scaled(inputs.query[:, at], scale)
        logits = _product(slots.key[...], query, 1, 0) + slots.bias[...]
        top = logits.max(0, keepdims=True)
        weights = jnp.exp(logits - top)
        begin = top, weights.sum(0, keepdims=True), _product(slots.value[...], weights, 0, 0)

        def keys(j: Array, carry: tuple) -> tuple:
            top, whole, mixed = carry
            logits = _logits(sizes, inputs, query, i, j)
            higher = jnp.maximum(top, logits.max(0, keepdims=True))
            weights, shrunk = jnp.exp(logits - higher), jnp.exp(top - higher)
            mixed = mixed * shrunk + _product(inputs.value[:, _at(j, sizes.key_block)], weights, 1, 0)
            return higher, whole * shrunk + weights.sum(0, keepdims=True), mixed

        top, whole, mixed = lax.fori_loop(start[before + i], stop[before + i], keys, begin)
        outputs.out[:, at] = (mixed / whole).astype(outputs.out.dtype)
        outputs.total[pl.ds(i, 1)] = jnp.where(top > MASKED / 2, top + jnp.log(whole), NOTHING)

    lax.fori_loop(0, blocks, queries, None)


def _backward_kernel(
    scale: float, sizes: _Sizes, start: Any, stop: Any, inputs: Any, back: Any, found: Any, key_sum: Any, value_sum: Any
) -> None:
    """Processes one head of one batch row. Gradients of keys are summed over groups in `key_sum` and `value_sum`; those
    of slots and bias are also summed over rows, in place: they stay in VMEM.
    """
    row, group, slots = pl.program_id(1), pl.program_id(2), inputs.slots
    blocks = sizes.queries // sizes.block
    before = row * blocks

    @pl.when(group == 0)
    def _() -> None:
        _clear(key_sum, value_sum)

    @pl.when((row == 0) & (group == 0))
    def _() -> None:
        _clear(*jax.tree.leaves((found.slots, found.bias)))

    def queries(i: Array, _: None) -> None:
        at, this = _at(i, sizes.block), pl.ds(i, 1)
        query, out = _scaled(inputs.query[:, at], scale), back.out[:, at]
        whole, mean = back.total[this], back.mean[this]

        def gradients(logits: Array, d_weights: Array) -> tuple[Array, Array]:
            weights = jnp.exp(logits - whole)
            return weights, weights * (d_weights - mean)

        logits = _product(slots.key[...], query, 1, 0) + slots.bias[...]
        weights, d_logits = gradients(logits, _product(slots.value[...], out, 1, 0))
        found.slots.key[...] += _product(d_logits, query, 1, 1)
        found.slots.value[...] += _product(weights, out, 1, 1)
        found.slots.bias[...] += d_logits.sum(1, keepdims=True)

        def keys(j: Array, d_query: Array) -> Array:
            those = _at(j, sizes.key_block)
            logits = _logits(sizes, inputs, query, i, j)
            weights, d_logits = gradients(logits, _product(inputs.value[:, those], out, 0, 0))
            value_sum[:, those] += _product(out, weights, 1, 1)
            key_sum[:, those] += _product(query, d_logits, 1, 1)
            if found.bias is not None:
                found.bias[those, at] += d_logits
            return d_query + _product(inputs.key[:, those], d_logits, 1, 0)

        d_query = lax.fori_loop(start[before + i], stop[before + i], keys, _product(slots.key[...], d_logits, 0, 0))
        found.query[:, at] = (d_query * scale).astype(found.query.dtype)

    lax.fori_loop(0, blocks, queries, None)

    @pl.when(group == sizes.groups - 1)
    def _() -> None:
        found.key[...] = key_sum[...].astype(found.key.dtype)
        found.value[...] = value_sum[...].astype(found.value.dtype)


def _clear(*sums: Any) -> None:
    for ref in sums:
        ref[...] = jnp.zeros_like(ref)


def _at(i: Array, block: int) -> Any:
    return pl.ds(pl.multiple_of(i * block, block), block)


def _scaled(query: Array, scale: float) -> Array:
    return (query.astype(jnp.float32) * scale).astype(query.dtype)


def _logits(sizes: _Sizes, inputs: Any, query: Array, i: Array, j: Array) -> Float[Array, "keys queries"]:
    """Returns the logits of query block `i` and key block `j`."""
    those = _at(j, sizes.key_block)
    logits = _product(inputs.key[:, those], query, 0, 0)
    if inputs.bias is not None:
        logits += inputs.bias[those, _at(i, sizes.block)]
    place = j * sizes.key_block + lax.broadcasted_iota(jnp.int32, logits.shape, 0)
    seen = (place >= inputs.first[pl.ds(i, 1)]) & (place <= inputs.last[pl.ds(i, 1)])
    return jnp.where(seen, logits, MASKED)


def _product(a: Array, b: Array, left: int, right: int) -> Array:
    """Multiplies in the narrower dtype, with float32 accumulation."""
    low = a.dtype if a.dtype.itemsize < b.dtype.itemsize else b.dtype
    numbers = (((left,), (right,)), ((), ()))
    return lax.dot_general(a.astype(low), b.astype(low), numbers, precision(low), preferred_element_type=jnp.float32)
