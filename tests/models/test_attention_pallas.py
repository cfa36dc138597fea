"""Attention as one kernel, interpreted: its numbers are those of plain attention, which is held to transformers, in
every family, through packed rows, prefixes with closed slots, and gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.models import masks
from prefix_jax.models.attention import KVSource, attend, attention_weights
from prefix_jax.models.prefix import shortened
from tests.models import torch_models as tm


def normal(seed: int, *shape: int, dtype: str = "float32"):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def packed(rows: int, columns: int) -> jax.Array:
    """Segment ids of rows of four segments, the first row a single one, the last eighth padding."""
    ids = np.sort(np.random.default_rng(0).integers(1, 5, (rows, columns)), -1)
    ids[0] = 1
    ids[:, columns - columns // 8 :] = 0
    return jnp.asarray(ids, jnp.int32)


# (batch, KV heads, groups, columns, width, slots, window, bias of slots, bias of keys)
CASES = {
    "less_than_a_block": (2, 2, 1, 100, 16, 5, None, False, False),
    "groups": (2, 2, 3, 300, 8, 17, None, False, False),
    "window": (2, 2, 2, 300, 16, 5, 40, False, False),
    "no_prefix": (2, 2, 1, 260, 16, 0, None, False, False),
    "bias_of_slots": (2, 3, 2, 130, 16, 5, None, True, False),
    "blocks_of_256": (1, 2, 1, 512, 32, 20, None, False, False),
    "relative_bias": (2, 3, 1, 300, 16, 5, None, False, True),
}


def sources_of(case, dtype):
    batch, heads, groups, columns, width, slots, window, slot_bias, key_bias = case
    arrays = {
        "query": normal(0, batch, heads, groups, columns, width, dtype=dtype),
        "key": normal(1, batch, heads, columns, width, dtype=dtype),
        "value": normal(2, batch, heads, columns, width, dtype=dtype),
    }
    if slots:
        arrays |= {f"prefix_{n}": normal(3 + i, heads, slots, width) for i, n in enumerate(("key", "value"))}
    if slot_bias:
        arrays["slot_bias"] = normal(5, heads, 1, 1, slots)
    if key_bias:
        arrays["bias"] = normal(6, heads, 1, columns, columns)
    return arrays


def attended(arrays, mask, dtype):
    bias = masks.mask_pair(arrays["bias"]) if "bias" in arrays else None
    sources = (KVSource(arrays["key"], arrays["value"], bias, mask),)
    if "prefix_key" in arrays:
        sources = (KVSource(arrays["prefix_key"], arrays["prefix_value"], arrays.get("slot_bias")), *sources)
    scale = arrays["query"].shape[-1] ** -0.5
    return attend(arrays["query"], sources, scale, jnp.dtype(dtype)).astype(jnp.float32)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [*((name, "float32", 3e-6) for name in CASES), ("groups", "bfloat16", 1e-2), ("blocks_of_256", "bfloat16", 1e-2)],
)
def test_the_kernel_is_plain_attention_forwards_and_back(name, dtype, tolerance):
    case = CASES[name]
    ids = packed(case[0], case[3])
    arrays = sources_of(case, dtype)
    real = (ids > 0)[:, None, None, :, None]
    cotangent = jnp.where(real, normal(9, *arrays["query"].shape), 0)
    plain = masks.mask_pair(masks.causal_mask(masks.segment_positions(ids), ids, case[6]))
    interval = masks.causal_interval(ids, case[6])

    def loss(arrays, mask):
        out = attended(arrays, mask, dtype)
        return (out * cotangent).sum(), jnp.where(real, out, 0)

    step = jax.jit(jax.grad(loss, has_aux=True))
    expected, found = step(arrays, plain), step(arrays, interval)
    for where, leaf in jax.tree_util.tree_leaves_with_path(expected):
        got = next(value for path, value in jax.tree_util.tree_leaves_with_path(found) if path == where)
        assert got.dtype == leaf.dtype
        scale = np.abs(np.asarray(leaf, np.float32)).max()
        difference = np.abs(np.asarray(got, np.float32) - np.asarray(leaf, np.float32)).max()
        assert difference <= tolerance * scale, (where, difference / scale)


def test_a_query_that_sees_nothing_has_no_gradient_and_no_nan():
    arrays = sources_of(CASES["no_prefix"], "float32")
    nothing = masks.causal_interval(jnp.zeros((2, 260), jnp.int32))
    gradient = jax.grad(lambda arrays: attended(arrays, nothing, "float32").sum())(arrays)
    for leaf in jax.tree.leaves((attended(arrays, nothing, "float32"), gradient)):
        assert np.isfinite(leaf).all()
    for name in ("query", "key"):
        assert not np.asarray(gradient[name]).any()


def test_intervals_are_the_masks_they_stand_for():
    ids = packed(3, 50)
    real = (ids > 0)[:, None, None, :, None]
    for window in (None, 7):
        plain = masks.causal_mask(masks.segment_positions(ids), ids, window)
        found = masks.rows_of_interval(masks.causal_interval(ids, window), 50)
        np.testing.assert_array_equal(found, plain & real)
    theirs = packed(3, 30)[:, ::-1]
    found = masks.rows_of_interval(masks.segment_interval(ids, theirs), 30)
    np.testing.assert_array_equal(found, masks.same_segment(ids, theirs)[:, None, None] & real)


def test_rows_too_long_for_a_cores_memory_are_plain():
    def program(columns):
        def run(query, key, ids):
            sources = (KVSource(key[0, :, :4], key[0, :, :4]), KVSource(key, key, None, masks.causal_interval(ids)))
            return attend(query, sources, 1.0, jnp.dtype("bfloat16"))

        shapes = [(1, 1, 1, columns, 128), (1, 1, columns, 128)]
        arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
        return str(jax.make_jaxpr(run)(*arrays, jax.ShapeDtypeStruct((1, columns), jnp.int32)))

    assert "pallas_call" in program(8192) and "pallas_call" not in program(16384)


def test_a_prefix_in_float32_has_its_gradient_in_float32():
    """Were it rounded to the operands' type, sums over devices and over parts of a batch would be too."""
    arrays = sources_of(CASES["groups"], "bfloat16")
    seen = masks.causal_interval(packed(2, 300))
    gradient = jax.grad(lambda arrays: attended(arrays, seen, "bfloat16").sum())(arrays)
    for name in ("prefix_key", "prefix_value"):
        assert (gradient[name] != gradient[name].astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9


METHODS = [
    ("llama", {"method": "lora", "lora.targets": "query,key,value,out"}),
    ("llama", {"method": "prefix", "model.quantisation": "int8"}),
    ("bart", {"method": "adapter"}),
    ("t5", {"method": "finetune"}),
]
BY_NIGHT = [METHODS[0], *(pytest.param(*case, marks=pytest.mark.nightly) for case in METHODS[1:])]


@pytest.mark.parametrize(("family", "options"), BY_NIGHT, ids=[f"{f}-{o['method']}" for f, o in METHODS])
def test_a_step_of_every_method_is_the_same(family, options, tiny_models, tmp_path, monkeypatch):
    """Real rows, packed; the queries, keys and values of the one are three products, of the other one."""
    from prefix_jax.config import default_config
    from prefix_jax.training import session
    from prefix_jax.training.step import initial_state, make_gradient
    from prefix_jax.training.trainer import prepare
    from tests import tiny

    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = default_config()
    config.model.source = str(tiny_models[family])
    config.data.update(task="text", path=str(tiny.save_rows(tmp_path / "rows.jsonl", 20)))
    config.training.update(batch=8, evaluate_every=0, steps=1)
    config.update_from_flattened_dict(options)
    opened = session.open_session(config)
    trainer = prepare(opened, tmp_path / "run", [])
    state = initial_state(trainer.method, opened.base, trainer.hyper, seed=0, ema=0.0)
    found = [
        jax.jit(make_gradient(model, trainer.method, per_record=False))(
            opened.base, state.trainable, trainer.batches.batch_at(0), state.key
        )
        for model in (opened.model, opened.model.clone(kernel="pallas"))
    ]
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(found[0][1]))
    tolerance = 1e-2 if "model.quantisation" in options else 1e-5  # integers are multiplied in bfloat16
    for want, got in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.abs(np.asarray(want) - np.asarray(got)).max() <= tolerance * max(largest, np.abs(want).max())


@pytest.mark.parametrize("family", ["llama", pytest.param("bart", marks=pytest.mark.nightly)])
def test_texts_are_the_same(family):
    """Prompts and encoders of several lengths go through the kernel, cached steps do not."""
    from prefix_jax import decoding

    pair = FAMILIES[family]()
    prefix = tm.random_prefix(pair.model_config, 4, offset=0)
    options = decoding.GenerationConfig(strategy="beam", beams=2, max_length=6)
    plain, fused = (
        decoding.decode_all(model, pair.variables, prefix, [[5, 6, 7, 8], [9], [10, 11]], options, batch=4)
        for model in (pair.model, pair.model.clone(kernel="pallas"))
    )
    assert plain == fused and all(plain)


FAMILIES = {
    "gpt2": lambda: tm.gpt2(),
    "llama": lambda: tm.llama(),
    "window": lambda: tm.llama("Mistral", sliding_window=4),
    "t5": lambda: tm.t5(),
    "bart": lambda: tm.bart(),
    "alibi": lambda: tm.decoder_only("Bloom", vocab_size=61, n_layer=2, hidden_size=24, n_head=4),
}


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.nightly) if f in ("bart", "gpt2") else f for f in FAMILIES]
)
def test_a_model_gives_the_same_losses_and_gradients(family):
    """Two packed rows with padding; a prefix of which the last slot is closed, as members of a sweep have it."""
    pair = FAMILIES[family]()
    columns = jnp.asarray([[1] * 6 + [2] * 5 + [0] * 3, [1] * 9 + [2] * 5])
    tokens = jax.random.randint(jax.random.key(0), columns.shape, 2, 60)
    more = {}
    if pair.model_config.is_encoder_decoder:
        theirs = jnp.asarray([[1] * 3 + [2] * 8, [1] * 6 + [2] * 3 + [0] * 2])
        more = {
            "encoder_tokens": jax.random.randint(jax.random.key(1), theirs.shape, 2, 60),
            "encoder_segment_ids": theirs,
        }
    prefix = shortened(tm.random_prefix(pair.model_config, 4), jnp.int32(3))
    cotangent = jnp.where((columns > 0)[..., None], normal(2, *columns.shape, 61), 0)

    def logits_and_gradients(model):
        @tm.jit
        def step(trained):
            def loss(trained):
                logits = model.apply(
                    pair.variables, tokens, segment_ids=columns, prefix=tm.with_leaves(prefix, trained), **more
                )
                return (logits * cotangent).sum(), jnp.where((columns > 0)[..., None], logits, 0)

            return jax.grad(loss, has_aux=True)(trained)

        return step(tm.differentiable(prefix))

    expected, found = logits_and_gradients(pair.model), logits_and_gradients(pair.model.clone(kernel="pallas"))
    for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert np.abs(np.asarray(want) - np.asarray(got)).max() <= 1e-5 * np.abs(np.asarray(want)).max()


def test_what_is_looked_at_inside_is_the_same():
    ids = packed(2, 20)
    query, key = normal(0, 2, 2, 1, 20, 8), normal(1, 2, 2, 20, 8)
    real = np.asarray(ids > 0)[:, None, None, :, None]
    plain = masks.causal_mask(masks.segment_positions(ids), ids)
    one, other = (
        attention_weights(query, (KVSource(key, key, None, mask),), 1.0) * real
        for mask in (plain, masks.causal_interval(ids))
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_layers_keep_the_kernels_output_and_do_not_run_it_again():
    pair = tm.gpt2()
    model, prefix = pair.model.clone(kernel="pallas"), tm.random_prefix(pair.model_config, 4)
    tokens = jnp.ones((2, 14), jnp.int32)

    def loss(trained):
        return model.apply(pair.variables, tokens, prefix=tm.with_leaves(prefix, trained)).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(tm.differentiable(prefix)))
    # Each call stands there for two platforms: compiled, and interpreted.
    assert program.count("name=prefix_attention\n") == 2 and program.count("name=prefix_attention_gradient\n") == 2
