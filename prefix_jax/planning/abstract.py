"""The real training step, lowered from shapes alone: nothing is loaded or run."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from prefix_jax import tuning
from prefix_jax.data.batching import Batch
from prefix_jax.models import build
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained import quantised
from prefix_jax.models.pretrained.loading import flatten, unflatten
from prefix_jax.options import Config
from prefix_jax.parallel.mesh import MeshSharder
from prefix_jax.training.optimizer import hyperparameters_from
from prefix_jax.training.session import check_attention
from prefix_jax.training.step import initial_state, make_step

_STEPS = 1000  # arbitrary: the schedule's length is traced and does not change the program


@dataclass(frozen=True)
class Work:
    """Sizes of a step: packed rows, columns per row, and target columns (in an encoder-decoder, the decoder's
    columns).
    """

    rows: int
    columns: int
    targets: int


@functools.cache
def base_shapes(model_config: ModelConfig, dtype: str, quantisation: str = "none") -> PyTree:
    """Returns a model's frozen parameters, as loaded, as shapes and dtypes."""
    model = build(model_config)
    ids = jnp.zeros((1, 2), jnp.int32)
    more = {"encoder_tokens": ids} if model_config.is_encoder_decoder else {}
    made = jax.eval_shape(lambda key: model.init(key, ids, **more), jax.random.key(0))["params"]
    flat = {path: jax.ShapeDtypeStruct(leaf.shape, dtype) for path, leaf in flatten(made).items()}
    quantised.check(quantisation)
    return unflatten(flat | (quantised.shapes(flat, jax.ShapeDtypeStruct) if quantisation == "int8" else {}))


def lowered_step(config: Config, model_config: ModelConfig, sharder: MeshSharder, work: Work) -> Any:
    """Returns a configuration's training step, lowered for the devices of a sharder.

    Raises:
      UserError: an option does not suit the model.
    """
    check_attention(config)
    kernel = "pallas" if config.model.attention == "fused" else None
    model = build(model_config, config.model.rematerialise, config.model.dtype, sharder, kernel)
    method = tuning.build(config, model, {name: (1,) for name in tuning.names(config)})
    base = {"params": base_shapes(model_config, config.model.dtype, config.model.quantisation)}
    options = config.training
    numbers = hyperparameters_from(config.optimizer, _STEPS)
    state = jax.eval_shape(lambda b: initial_state(method, b, numbers, 0, options.ema), base)
    shardings = sharder.trained(state)
    step = make_step(model, method, options.loss == "examples", options.ema, shardings=shardings)
    hyper = jax.eval_shape(lambda: numbers)
    everywhere = jax.tree.map(lambda leaf: sharder.replicated, hyper)
    return step.lower(
        _placed(base, {"params": sharder.base(base["params"])}),
        _placed(hyper, everywhere),
        _placed(state, shardings),
        _batch(model_config, work, options.accumulation, sharder),
    )


def _placed(shapes: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, shardings)


def _batch(model_config: ModelConfig, work: Work, parts: int, sharder: MeshSharder) -> Batch:
    lead = (parts, work.rows // parts) if parts > 1 else (work.rows,)
    sharding = sharder.rows(leading=len(lead) - 1)

    def array(columns: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*lead, columns), dtype, sharding=sharding)

    source, target = array(work.columns), array(work.targets)
    weights = array(work.targets, jnp.float32)
    if model_config.is_encoder_decoder:
        return Batch(target, target, target, target, target, weights, source, source, source)
    return Batch(source, source, source, target, target, weights)
