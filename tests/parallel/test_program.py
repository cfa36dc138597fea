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


# As the TPU's compiler writes them: a product of heads, whose batch is a spatial dimension, in a loop from 2 to 8 by 2.
TPU = """
%body (p: (s32[], f32[4,512,10])) -> (s32[], f32[4,512,10]) {
  %p = (s32[]{:T(128)}, f32[4,512,10]{1,2,0:T(8,128)S(1)}) parameter(0)
  %a = bf16[4,512,64]{2,1,0:T(8,128)(2,1)S(1)} constant({...})
  %b = bf16[4,64,10]{2,1,0:T(8,128)(2,1)S(1)} constant({...})
  %n = s32[]{:T(128)} get-tuple-element(%p), index=0
  %turns = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%n, %turns)
  %c = f32[4,512,10]{1,2,0:T(8,128)S(1)} convolution(%a, %b), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf
  ROOT %new = (s32[]{:T(128)}, f32[4,512,10]{1,2,0:T(8,128)S(1)}) tuple(%next, %c)
}

%condition (q: (s32[], f32[4,512,10])) -> pred[] {
  %limit = s32[]{:T(128)} constant(8)
  %q = (s32[]{:T(128)}, f32[4,512,10]{1,2,0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (x: bf16[10,256], y: bf16[256,24]) -> f32[10,24] {
  %x = bf16[10,256]{1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[256,24]{1,0:T(8,128)(2,1)} parameter(1)
  %two = s32[]{:T(128)} constant(2)
  %zeros = f32[4,512,10]{1,2,0:T(8,128)S(1)} constant({...})
  %t = (s32[]{:T(128)}, f32[4,512,10]{1,2,0:T(8,128)S(1)}) tuple(%two, %zeros)
  %w = (s32[]{:T(128)}, f32[4,512,10]{1,2,0:T(8,128)S(1)}) while(%t), condition=%condition, body=%body
  ROOT %r = f32[10,24]{1,0:T(8,128)} convolution(%x, %y), dim_labels=bf_io->bf
}
"""  # noqa: E501


def test_products_that_are_convolutions_and_loops_that_say_their_turns_in_a_condition():
    assert product_flops(TPU) == 3 * 2 * 4 * 512 * 64 * 10 + 2 * 10 * 256 * 24
