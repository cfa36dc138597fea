"""What a training step and inference multiply and keep, counted in the programs from shapes alone: nothing is timed.

A step's operations are those of the matrix products in the compiled program, loops counted; its activation memory is
what the compiled program holds beside its arguments and results.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator import flops
from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.data.batching import Batch
from prefix_jax.decoding.kv_cache import Inputs, prefill, step
from prefix_jax.models import Model, build
from prefix_jax.models.prefix import KeyValues
from prefix_jax.parallel.program import product_flops
from prefix_jax.planning.abstract import base_shapes
from prefix_jax.planning.shapes import spec_of
from prefix_jax.training.loss import loss_sums
from prefix_jax.training.optimizer import hyperparameters_from
from prefix_jax.training.step import initial_state, make_step
from prefix_jax.tuning import Method, TunedState, lora

ROWS, COLUMNS, TARGETS = 8, 512, 128  # of a training step
NEW = 16  # places for new tokens in a decoding step's cache
DIRECT = {"prefix.reparameterisation": "none"}
# Name in the table, method, options.
METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("prefix 10, direct", "prefix", {"prefix.length": 10, **DIRECT}),
    ("prefix 10 through an MLP of 512", "prefix", {"prefix.length": 10}),
    ("prefix 100, direct", "prefix", {"prefix.length": 100, **DIRECT}),
    ("LoRA, rank 8, query and value", "lora", {}),
    ("LoRA, rank 8, every matrix", "lora", {"lora.targets": "all"}),
    ("fine-tuning", "finetune", {}),
)
LENGTHS = (1, 10, 50, 100, 200, 400)


def count(source: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns the counts of every method, of the bare model, and of prefixes of several lengths."""
    model, base = _model(source)
    found = {"model": source, "rows": ROWS, "columns": COLUMNS, "targets": TARGETS, **_forward(model, base)}
    found["bare"] = inference_flops(model, base, None)
    found["methods"], found["lengths"] = [], []
    for title, name, options in METHODS:
        say(f"{source}: {title}")
        found["methods"].append({"method": title, **_of_method(model, base, name, options)})
    for length in LENGTHS:
        say(f"{source}: a prefix of {length}")
        options = {"prefix.length": length, **DIRECT}
        found["lengths"].append({"length": length, **_of_method(model, base, "prefix", options)})
    return found


def _model(source: str) -> tuple[Model, dict[str, Any]]:
    model_config = spec_of(source)
    # A CPU works in float32 wherever it does not multiply matrices.
    return build(model_config, activations="float32"), {"params": base_shapes(model_config, "bfloat16")}


def _of_method(model: Model, base: Any, name: str, options: dict[str, Any]) -> dict[str, Any]:
    config = default_config()
    config.method = name
    config.update_from_flattened_dict(options)
    method = tuning.build(config, model)
    trainable = jax.eval_shape(method.init, jax.random.key(0), base)
    kept = jax.eval_shape(lambda t, b: method.export(t, b, None), trainable, base)
    found = {"stored": kept.count(), **training_cost(model, method, base, config)}
    found["inference"] = inference_flops(model, base, kept)
    if name == "lora":
        merged = jax.eval_shape(lambda b, k: lora.merged(b["params"], k.collections["lora"]), base, kept)
        found["merged"] = inference_flops(model, {"params": merged}, None)
    return found


def training_cost(model: Model, method: Method, base: Any, config: Any) -> dict[str, int]:
    """Compiles a step for this device and returns its operations and the bytes of what it keeps meanwhile."""
    hyper = hyperparameters_from(config.optimizer, 1000)
    state = jax.eval_shape(lambda b: initial_state(method, b, hyper, 0, 0.0), base)
    compiled = make_step(model, method).lower(base, hyper, state, batch()).compile()
    return {"step_flops": product_flops(compiled.as_text()), "temporary_bytes": _temporary(compiled)}


def _forward(model: Model, base: Any) -> dict[str, int]:
    compiled = jax.jit(lambda b, x: loss_sums(model, b, None, x)).lower(base, batch()).compile()
    return {"forward_flops": product_flops(compiled.as_text()), "forward_temporary_bytes": _temporary(compiled)}


def _temporary(compiled: Any) -> int:
    return int(compiled.memory_analysis().temp_size_in_bytes)


def batch() -> Batch:
    """Returns the shapes of a step's rows."""

    def array(columns: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((ROWS, columns), dtype)

    row, target = array(COLUMNS), array(TARGETS)
    return Batch(row, row, row, target, target, array(TARGETS, jnp.float32))


def inference_flops(model: Model, base: Any, kept: TunedState | None) -> dict[str, int]:
    """Returns the operations of reading `COLUMNS` tokens, and of one new token after them."""
    kept = kept or TunedState()
    inputs = Inputs(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, COLUMNS), (1,), (1,))))
    read = jax.make_jaxpr(lambda b, k, i: prefill(model, k.onto(b), k.prefix, i))(base, kept, inputs)
    prompt, _ = jax.eval_shape(lambda b, k, i: prefill(model, k.onto(b), k.prefix, i), base, kept, inputs)
    cache = KeyValues(*(jax.ShapeDtypeStruct((*x.shape[:3], NEW, x.shape[-1]), x.dtype) for x in prompt.past))
    slots, token = jax.ShapeDtypeStruct((1, 1, NEW), jnp.int32), jax.ShapeDtypeStruct((1, 1), jnp.int32)

    def write(base: Any, kept: TunedState, prompt: Any, cache: KeyValues, slots: Any, token: Any) -> Any:
        return step(model, kept.onto(base), kept.prefix, prompt, cache, slots, token, jnp.int32(0))

    written = jax.make_jaxpr(write)(base, kept, prompt, cache, slots, token)
    return {"read": flops(read.jaxpr), "token": flops(written.jaxpr)}
