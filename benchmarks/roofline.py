"""The step's own matrix products, each timed alone at its own shape: the time that nothing but products would take."""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from prefix_jax.parallel.program import Operand, Product, products

_DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
_SECONDS = 0.4  # of timing for each shape


def roofline(text: str) -> dict[str, Any]:
    """Returns the summed seconds of a program's products, each timed alone, and a row for each."""
    rows = []
    for product, times in products(text).items():
        seconds = time_alone(product)
        rows.append(
            {
                "left": _spelled(product.left),
                "right": _spelled(product.right),
                "times": times,
                "seconds": seconds * times,
                "gflops_per_second": product.flops / seconds / 1e9,
            }
        )
    rows.sort(key=lambda row: -row["seconds"])
    flops = sum(p.flops * n for p, n in products(text).items())
    return {"seconds": sum(row["seconds"] for row in rows), "flops": flops, "products": rows}


def time_alone(product: Product) -> float:
    """Returns the median seconds of one product in a program of its own."""
    left, right = (_array(operand, seed) for seed, operand in enumerate((product.left, product.right)))
    numbers = (product.contracting, product.batch)
    run = jax.jit(lambda a, b: lax.dot_general(a, b, numbers, preferred_element_type=_DTYPES[product.result.dtype]))
    jax.block_until_ready(run(left, right))
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _SECONDS and len(times) < 200):
        began = time.perf_counter()
        jax.block_until_ready(run(left, right))
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _array(operand: Operand, seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), operand.shape, jnp.float32).astype(_DTYPES[operand.dtype])


def _spelled(operand: Operand) -> str:
    return f"{operand.dtype}[{','.join(map(str, operand.shape))}]"
