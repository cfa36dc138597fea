"""`python -m benchmarks.accelerator [--model gpt2-medium] [--rows 32 --columns 512 --targets 128] [--dtype bfloat16]`

A training step on whatever device JAX finds, beside PEFT on torch where torch finds one too: seconds, tokens a second,
and model FLOPs utilisation. Weights are random numbers in the model's shapes, for nothing is downloaded; time does not
depend on them. Writes `benchmarks/results/accelerator_MODEL_DEVICE.json`.
"""

import argparse
import gc
import json
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from benchmarks.growth import synthetic
from benchmarks.run import write
from prefix_jax import decoding, tuning
from prefix_jax.config import default_config
from prefix_jax.data.batching import Batch
from prefix_jax.models import build
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.planning.abstract import base_shapes
from prefix_jax.planning.shapes import KNOWN, spec_of
from prefix_jax.training.optimizer import hyperparameters_from
from prefix_jax.training.step import initial_state, make_step

# Dense bfloat16 operations a second, from the vendors' data sheets, by what JAX calls the device.
PEAKS = {
    "NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA L4": 121e12, "Tesla T4": 65e12,
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12,
}  # fmt: skip
STEPS = 20
DECODES = 3


def flops(jaxpr: Any) -> int:
    """Returns the floating-point operations of a jaxpr's matrix products, the turns of its scans counted.

    Raises:
      ValueError: products stand in a loop whose number of turns is not known.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracting, _), _ = equation.params["dimension_numbers"]
            left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * _size(result) * _size(left[axis] for axis in contracting)
            continue
        inner = sum(flops(part) for part in _inside(equation.params))
        if inner and equation.primitive.name == "while":
            raise ValueError("a loop with matrix products does not say how often it turns")
        total += inner * equation.params.get("length", 1) if equation.primitive.name == "scan" else inner
    return total


def _inside(parameters: dict[str, Any]) -> list[Any]:
    found = [part for value in parameters.values() for part in (value if isinstance(value, tuple) else (value,))]
    closed = [part.jaxpr if isinstance(part, core.ClosedJaxpr) else part for part in found]
    return [part for part in closed if isinstance(part, core.Jaxpr)]


def _size(dimensions: Any) -> int:
    size = 1
    for dimension in dimensions:
        size *= dimension
    return size


def random_base(model_config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Returns weights of a model's shapes, drawn on the device."""
    shapes = base_shapes(model_config, dtype)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))

    @jax.jit
    def draw(keys: jax.Array) -> list[jax.Array]:
        return [0.02 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]

    return {"params": jax.tree.unflatten(tree, draw(keys))}


def ours(
    model_config: ModelConfig, dtype: str, length: int, batch: Batch, steps: int = STEPS, attention: str = "plain"
) -> dict[str, Any]:
    """Times this project's step; `attention` as in `config.model`."""
    config = default_config()
    config.prefix.length = length
    model, plain = (build(model_config, activations=dtype, kernel=_kernel(kind)) for kind in (attention, "plain"))
    method = tuning.build(config, model)
    hyper, base = hyperparameters_from(config.optimizer, 1000), random_base(model_config, dtype)
    state = initial_state(method, base, hyper, seed=0, ema=0.0)
    step = make_step(model, method)
    # What has to be multiplied, and not what a kernel adds to fill its blocks.
    counted = flops(jax.make_jaxpr(make_step(plain, method))(base, hyper, state, batch).jaxpr)
    batch = jax.device_put(batch)

    def once() -> None:
        nonlocal state
        state, metrics = step(base, hyper, state, batch)
        jax.block_until_ready(metrics)

    first, seconds = _timed(once, steps)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"seconds": seconds, "first_step_seconds": first, "flops": counted, "peak_bytes": memory}


def _kernel(attention: str) -> str | None:
    return None if attention == "plain" else {"gpu": "cudnn"}.get(jax.default_backend(), "pallas")


def _peft(model: str, dtype: str, length: int, device: str) -> Any:
    """Returns a model of random numbers with PEFT's prefix; None where torch has no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return None
    import transformers

    from benchmarks.peft_side import Peft

    options = dict(KNOWN[model])
    config = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
    with torch.device(device):
        base = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    return Peft(base, length, device=device)


def theirs(
    model: str,
    dtype: str,
    length: int,
    batch: Batch,
    steps: int = STEPS,
    device: str = "cuda",
    whole_program: bool = False,
) -> dict[str, Any] | None:
    """Times PEFT's step on the same rows, with `torch.compile` if `whole_program`; None where torch has no such device.

    A failure of `torch.compile` is returned as its first line.
    """
    peft = _peft(model, dtype, length, device)
    if peft is None:
        return None
    import torch

    half = batch.tokens.shape[1] - batch.targets.shape[1]
    labels = torch.tensor(batch.tokens, dtype=torch.long)
    labels[:, :half] = -100
    tokens = torch.tensor(batch.tokens, dtype=torch.long)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
    inputs = {name: value.to(device) for name, value in inputs.items()}
    forward = torch.compile(peft.model) if whole_program else peft.model
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        # The loss is read after each step, which waits for the device.
        first, seconds = _timed(lambda: peft.update(forward(**inputs).loss), steps)
    except Exception as error:
        if not whole_program:
            raise
        return {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else None
    peft = forward = inputs = None
    gc.collect()
    torch.cuda.empty_cache()  # leave the device to JAX
    return {"seconds": seconds, "first_step_seconds": first, "peak_bytes": memory}


def our_decoding(
    model_config: ModelConfig, dtype: str, length: int, sources: list[list[int]], beams: int, new_tokens: int
) -> dict[str, Any]:
    """Times this project's decoding of a batch of inputs, the first call with its compilation apart."""
    config = default_config()
    config.prefix.length = length
    model = build(model_config, activations=dtype)
    base, method = random_base(model_config, dtype), tuning.build(config, model)
    state = initial_state(method, base, hyperparameters_from(config.optimizer, 1000), seed=0, ema=0.0)
    _, prefix = jax.jit(lambda trainable, base: method.materialise(trainable, base, None))(state.trainable, base)
    strategy = "beam" if beams > 1 else "greedy"
    options = decoding.GenerationConfig(
        strategy=strategy, beams=beams, max_length=new_tokens, min_length=new_tokens - 1
    )
    first, seconds = _timed(
        lambda: decoding.decode_all(model, base, prefix, sources, options, batch=len(sources)), DECODES
    )
    return {"seconds": seconds, "first_call_seconds": first}


def their_decoding(
    model: str, dtype: str, length: int, sources: list[list[int]], beams: int, new_tokens: int, device: str = "cuda"
) -> dict[str, Any] | None:
    """Times transformers' decoding with PEFT's prefix; None where torch has no such device."""
    peft = _peft(model, dtype, length, device)
    if peft is None:
        return None
    first, seconds = _timed(lambda: peft.generate(sources, beams, new_tokens), DECODES)
    return {"seconds": seconds, "first_call_seconds": first}


def measure_decoding(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns seconds and tokens a second of both sides' greedy and beam search, by number of beams."""
    model_config = spec_of(arguments.model)
    rng = np.random.default_rng(0)
    sources = rng.integers(3, model_config.vocab_size, (arguments.rows, arguments.columns)).tolist()
    found = {}
    for beams in arguments.beams:
        options = (arguments.dtype, arguments.prefix, sources, beams, arguments.targets)
        ours = our_decoding(model_config, *options)
        print(f"beams {beams}, ours: {ours}", flush=True)  # the other side may take longer than a caller waits
        peft = their_decoding(arguments.model, *options)
        found[str(beams)] = {
            "ours": ours,
            "peft": peft,
            "tokens_per_second": arguments.rows * arguments.targets / ours["seconds"],
            "over_peft": peft and peft["seconds"] / ours["seconds"],
        }
        print(f"beams {beams}: {found[str(beams)]}", flush=True)
    return {
        "device": jax.devices()[0].device_kind,
        **{name: getattr(arguments, name) for name in ("model", "dtype", "rows", "columns", "targets", "prefix")},
        "beams": found,
    }


def measured_peak(dtype: str, width: int) -> float:
    """Returns the operations a second of one large square product: what this device does at best, measured."""
    square = jnp.ones((width, width), dtype)
    run = jax.jit(lambda a: a @ a)
    _, seconds = _timed(lambda: jax.block_until_ready(run(square)), STEPS)
    return 2 * width**3 / seconds


def _timed(run: Callable[[], Any], steps: int) -> tuple[float, float]:
    """Returns the first call's seconds, and the median of the others."""
    times = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times[0], statistics.median(times[1:])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns everything measured; shares are of the step's own matrix products."""
    device = jax.devices()[0].device_kind
    model_config = spec_of(arguments.model)
    batch = synthetic(arguments.rows, arguments.columns, model_config.vocab_size, arguments.targets)
    both = {
        whole: theirs(arguments.model, arguments.dtype, arguments.prefix, batch, arguments.steps, whole_program=whole)
        for whole in ((False, True) if arguments.torch_compile else (False,))
    }
    timed = [each for each in both.values() if each and "seconds" in each]
    peft = min(timed, key=lambda each: each["seconds"]) if timed else None
    kinds = arguments.attention.split(",")
    found = {
        kind: ours(model_config, arguments.dtype, arguments.prefix, batch, arguments.steps, kind) for kind in kinds
    }
    step = min(found.values(), key=lambda each: each["seconds"])
    rate = step["flops"] / step["seconds"]
    best = measured_peak(arguments.dtype, arguments.square)
    sheet = next((peak for name, peak in PEAKS.items() if device.startswith(name)), None)
    return {
        "device": device,
        **{name: getattr(arguments, name) for name in ("model", "dtype", "rows", "columns", "targets", "prefix")},
        "ours": step,
        "seconds_by_attention": {kind: each["seconds"] for kind, each in found.items()},
        "peft": peft,
        "peft_compiled": both.get(True),
        "tokens_per_second": arguments.rows * arguments.columns / step["seconds"],
        "flops_per_second": rate,
        "share_of_a_large_product": rate / best,
        "model_flops_utilisation": sheet and rate / sheet,
        "over_peft": peft and peft["seconds"] / step["seconds"],
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    decoder_only = [name for name, options in KNOWN.items() if options["model_type"] != "t5"]
    parser.add_argument("--model", default="gpt2-medium", choices=decoder_only)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--targets", type=int, default=128, help="tokens at a row's end that are predicted")
    parser.add_argument("--prefix", type=int, default=10)
    parser.add_argument("--steps", type=int, default=STEPS)
    kinds = "plain" if jax.default_backend() == "cpu" else "plain,fused"
    parser.add_argument("--attention", default=kinds, help="kinds to time, of which the faster counts")
    parser.add_argument("--what", default="train", choices=("train", "decode"), help="decode: new tokens are `targets`")
    parser.add_argument("--beams", type=int, nargs="+", default=[1], help="of decoding; 1 is greedy")
    parser.add_argument("--torch_compile", action="store_true", help="also time PEFT's step under torch.compile")
    parser.add_argument("--square", type=int, default=8192, help="width of the large product")
    arguments = parser.parse_args(words)
    found = (measure if arguments.what == "train" else measure_decoding)(arguments)
    print(json.dumps(found, indent=1))
    device = re.sub(r"\W+", "-", found["device"]).strip("-").lower()
    what = "" if arguments.what == "train" else "decode_"
    write(f"accelerator_{what}{arguments.model}_{device}", found)


if __name__ == "__main__":
    main()
