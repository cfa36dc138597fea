"""Matrix products read from compiled programs agree with counts by hand."""

import jax
import jax.numpy as jnp
from jax import lax

from prefix_jax.parallel.program import product_flops, products


def compiled(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_products_in_nested_loops_count_as_often_as_they_run():
    kernel = jnp.ones((5, 16, 16))

    def inner(x, k):
        return lax.scan(lambda y, _: (jnp.tanh(y @ k), None), x, None, length=3)[0], None

    text = compiled(lambda x: lax.scan(inner, x, kernel)[0], jnp.ones((8, 16)))
    assert product_flops(text) == 5 * 3 * 2 * 8 * 16 * 16
    ((product, times),) = products(text).items()
    assert times == 15 and product.result.shape in ((8, 16), (16, 8))


def test_batched_products_and_their_gradient():
    a, b = jnp.ones((2, 3, 4, 5)), jnp.ones((2, 3, 5, 6))
    each = 2 * 2 * 3 * 4 * 5 * 6
    text = compiled(jax.grad(lambda a, b: jnp.sin(a @ b).sum(), (0, 1)), a, b)
    assert product_flops(text) == 3 * each
