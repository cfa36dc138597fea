"""One training step: the gradient of the trainable tree only; the base is an argument of jit but constant for grad."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jaxtyping import Array, PyTree

from prefix_jax.data.batching import Batch
from prefix_jax.models import Model
from prefix_jax.training.loss import loss_sums, record_count
from prefix_jax.training.optimizer import Hyperparameters, learning_rate, make_optimizer, within
from prefix_jax.tuning import Method

Base = Mapping[str, Any]
# `(model, variables, prefix, batch) -> (sum of losses, sum of weights)`, such as `loss_sums`.
Loss = Callable[[Model, Base, Any, Batch], tuple[Array, Array]]


@struct.dataclass
class TrainState:
    """The state updated by training. `key` seeds dropout; `average` is the moving average, or None."""

    step: Array
    trainable: PyTree
    optimizer: PyTree
    average: PyTree
    key: Array


def initial_state(
    method: Method,
    base: Base,
    hyper: Hyperparameters,
    seed: int,
    ema: float,
    shard: Callable[[PyTree], PyTree] | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """Returns the initial state; `shard` maps its shapes to shardings, and `optimizer` is that of `make_step`.

    >>> method = lm.method(pj.Prefix(length=3, hidden=16))
    >>> state = pj.initial_state(method, lm.variables, pj.hyperparameters(), seed=0, ema=0.0)
    >>> state.trainable["decoder"]["embedding"].shape
    (3, 32)
    """

    def make(key: Array, base: Base) -> TrainState:
        key_init, key_train = jax.random.split(key)
        trainable = method.init(key_init, base)
        state = _optimizer(optimizer, hyper, method.mask(trainable)).init(trainable)
        average = jax.tree.map(jnp.copy, trainable) if ema else None
        return TrainState(jnp.int32(0), trainable, state, average, key_train)

    key = jax.random.key(seed)
    if shard is None:
        return jax.jit(make)(key, base)
    return jax.jit(make, out_shardings=shard(jax.eval_shape(make, key, base)))(key, base)


def exported(state: TrainState) -> PyTree:
    """Returns the trainable tree for use after training: the moving average if enabled."""
    return state.trainable if state.average is None else state.average


def _optimizer(
    given: optax.GradientTransformation | None, hyper: Hyperparameters, mask: PyTree
) -> optax.GradientTransformation:
    return make_optimizer(hyper, mask) if given is None else within(given, mask)


def make_gradient(model: Model, method: Method, per_record: bool, loss: Loss = loss_sums) -> Callable:
    """Returns `(base, trainable, batch, key) -> (loss, gradient, weight)`.

    A batch with a leading micro-batch axis is accumulated: the sum of gradients over the sum of weights, not a mean of
    means. `per_record` divides by the number of records instead of target tokens.
    """

    def sums(trainable: PyTree, base: Base, batch: Batch, key: Array) -> tuple[Array, Array]:
        variables, prefix = method.materialise(trainable, base, key)
        return loss(model, variables, prefix, batch)

    def gradient(base: Base, trainable: PyTree, batch: Batch, key: Array) -> tuple[Array, PyTree, Array]:
        def part(totals: PyTree, batch: Batch) -> tuple[PyTree, None]:
            (total, weight), grads = jax.value_and_grad(sums, has_aux=True)(trainable, base, batch, key)
            records = record_count(batch).astype(jnp.float32)
            return jax.tree.map(jnp.add, totals, (total, weight, records, grads)), None

        zero = jnp.float32(0)
        totals = (zero, zero, zero, jax.tree.map(jnp.zeros_like, trainable))
        if batch.tokens.ndim == 2:
            totals, _ = part(totals, batch)
        else:
            totals, _ = lax.scan(part, totals, batch)
        total, weight, records, grads = totals
        divisor = jnp.maximum(records if per_record else weight, 1)
        return total / jnp.maximum(weight, 1), jax.tree.map(lambda g: g / divisor, grads), weight

    return gradient


# Members of a sweep share a leading axis of everything but the step.
_MEMBERS = TrainState(step=None, trainable=0, optimizer=0, average=0, key=0)  # type: ignore[arg-type]


def make_step(
    model: Model,
    method: Method,
    per_record: bool = False,
    ema: float = 0.0,
    lengths: Sequence[int] | None = None,
    shardings: TrainState | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss = loss_sums,
) -> Callable:
    """Returns the compiled `(base, hyper, state, batch) -> (state, metrics)`; the state's buffers are reused.

    Metrics: loss (mean per target token), learning_rate, gradient_norm (before clipping), target_tokens. With
    `lengths`, `hyper`, `state` and the metrics have a leading member axis, while the base and the batch are shared;
    member m sees the first `lengths[m]` virtual tokens. `shardings` are those of the state, which are preserved.

    Args:
      model: the frozen network, a Flax module.
      method: the tuning method's pure functions.
      per_record: whether to divide by the number of records instead of target tokens.
      ema: decay of the moving average that is exported; 0: none.
      optimizer: an optax optimizer in place of AdamW; its updates are applied as they are, `hyper` is not used, and
        the metrics have no learning rate.
      loss: `(model, variables, prefix, batch) -> (sum of losses, sum of weights)`.

    >>> method, batch = lm.method(pj.Prefix(length=3, hidden=16)), lm.batch(pairs)
    >>> hyper = pj.hyperparameters(learning_rate=1e-2, steps=10)
    >>> state = pj.initial_state(method, lm.variables, hyper, seed=0, ema=0.0)
    >>> step = pj.make_step(lm.model, method)
    >>> state, metrics = step(lm.variables, hyper, state, batch)
    >>> int(state.step), bool(metrics["loss"] > 0)
    (1, True)
    """

    model = _for_members(model, lengths)

    def step(
        base: Base, hyper: Hyperparameters, state: TrainState, batch: Batch, length: Any
    ) -> tuple[TrainState, dict[str, Array]]:
        here = method if length is None else method.of_length(length)
        key = jax.random.fold_in(state.key, state.step)
        value, grads, weight = make_gradient(model, here, per_record, loss)(base, state.trainable, batch, key)
        transformation = _optimizer(optimizer, hyper, method.mask(state.trainable))
        updates, optimizer_state = transformation.update(grads, state.optimizer, state.trainable)
        metrics = dict(loss=value, gradient_norm=optax.global_norm(grads), target_tokens=weight)
        if optimizer is None:
            rate = metrics["learning_rate"] = learning_rate(hyper, state.step)
            updates = jax.tree.map(lambda u: -rate * u, updates)
        trainable = optax.apply_updates(state.trainable, updates)
        average = state.average
        if average is not None:
            decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda a, t: decay * a + (1 - decay) * t, average, trainable)
        return TrainState(state.step + 1, trainable, optimizer_state, average, state.key), metrics

    own, axis = _own_lengths(lengths)
    over = None if shardings is None else "member"
    run = (
        step if lengths is None else jax.vmap(step, (None, 0, _MEMBERS, None, axis), (_MEMBERS, 0), spmd_axis_name=over)
    )
    kept = None if shardings is None else (shardings, shardings.step)
    return jax.jit(
        lambda base, hyper, state, batch: run(base, hyper, state, batch, own), donate_argnums=2, out_shardings=kept
    )


def _for_members(model: Model, lengths: Sequence[int] | None) -> Model:
    """Returns the model for members of a sweep: cuDNN's kernel takes no member axis, so attention is plain."""
    return model if lengths is None or model.kernel != "cudnn" else model.clone(kernel=None)


def make_evaluation(
    model: Model,
    method: Method,
    lengths: Sequence[int] | None = None,
    on_mesh: bool = False,
    loss: Loss = loss_sums,
) -> Callable:
    """Returns the compiled `(base, trainable, batch) -> (sum of losses, sum of weights)`, without dropout.

    With `lengths`, for members along a leading axis, as in `make_step`; `on_mesh`: whether a mesh shards the axis.
    """

    model = _for_members(model, lengths)

    def evaluate(base: Base, trainable: PyTree, batch: Batch, length: Any) -> tuple[Array, Array]:
        here = method if length is None else method.of_length(length)
        variables, prefix = here.materialise(trainable, base, None)
        return loss(model, variables, prefix, batch)

    own, axis = _own_lengths(lengths)
    over = "member" if on_mesh else None
    run = evaluate if lengths is None else jax.vmap(evaluate, (None, 0, None, axis), spmd_axis_name=over)
    return jax.jit(lambda base, trainable, batch: run(base, trainable, batch, own))


@functools.lru_cache(maxsize=8)
def make_bare_evaluation(model: Model, loss: Loss = loss_sums) -> Callable:
    """Returns the compiled `(base, batch) -> (sum of losses, sum of weights)` of the bare model."""
    return jax.jit(lambda base, batch: loss(model, base, None, batch))


def _own_lengths(lengths: Sequence[int] | None) -> tuple[Array | None, int | None]:
    """Returns the lengths as an array and its member axis; None for both if every member uses all slots."""
    if lengths is None or len(set(lengths)) == 1:
        return None, None
    return jnp.asarray(lengths), 0
