"""Where implementations of prefix tuning go silently wrong: a test for each trap that lies in the models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import build, from_hf
from prefix_jax.models.masks import MASKED
from prefix_jax.models.prefix import Past, Prefix, PrefixKV, check, length
from prefix_jax.tuning.formats.layout import with_offset
from tests.models import torch_models as tm

LENGTH, COLUMNS, SOURCE = 4, 7, 8
FAMILIES = {"gpt2": tm.gpt2, "llama": tm.llama, "t5": tm.t5}


class Calls:
    """A small model and its compiled call; tokens are `[2, 7]`, encoder tokens `[2, 8]`."""

    def __init__(self, pair):
        self.pair, self.model_config, self.model = pair, pair.model_config, pair.model
        generator = np.random.default_rng(0)
        self.tokens = generator.integers(2, 61, (2, COLUMNS))
        self.encoder_tokens = generator.integers(2, 61, (2, SOURCE))
        self.compiled = tm.jit(self.apply)

    def logits(self, prefix=None, tokens=None, positions=None):
        """Compiled; the tokens are always an argument, so that calls with other tokens are of the same program."""
        return self.compiled(prefix, self.tokens if tokens is None else tokens, positions)

    def apply(self, prefix=None, tokens=None, positions=None, variables=None):
        tokens = self.tokens if tokens is None else tokens
        extra = {"encoder_tokens": self.encoder_tokens} if self.model_config.is_encoder_decoder else {}
        variables = self.pair.variables if variables is None else variables
        return self.model.apply(variables, tokens, positions, prefix=prefix, **extra)

    def prefix(self, **options):
        return tm.random_prefix(self.model_config, LENGTH, **options)


@functools.cache
def _calls(family):
    return Calls(FAMILIES[family]())


@pytest.fixture(params=FAMILIES)
def calls(request):
    return _calls(request.param)


@pytest.fixture
def llama():
    return _calls("llama")


@pytest.fixture
def gpt2():
    return _calls("gpt2")


@pytest.fixture
def t5():
    return _calls("t5")


def _with_bias(prefix, closed):
    """The prefix with a slot bias at every site: -inf where `closed`, else 0."""
    bias = jnp.where(jnp.asarray(closed), -jnp.inf, 0.0)

    def site(own):
        return None if own is None else own.replace(bias=jnp.broadcast_to(bias, own.key.shape[:3]))

    return prefix.replace(decoder=site(prefix.decoder), encoder=site(prefix.encoder), cross=site(prefix.cross))


def _equal(a, b, tolerance):
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def test_trap_01_every_trained_leaf_has_a_gradient(t5):
    """Every slot of every head of every layer of all three sites, keys, values and slot bias."""
    prefix = _with_bias(t5.prefix(), [False] * LENGTH)
    target = np.random.default_rng(1).standard_normal((2, COLUMNS, 61))
    gradients = tm.jit(jax.grad(lambda p: (t5.apply(p) * target).sum(), allow_int=True))(prefix)
    for name in ("encoder", "decoder", "cross"):
        site = getattr(gradients, name)
        assert site.key.shape[0] == t5.model_config.site_layers(name)
        for leaf in (np.abs(site.key).max(-1), np.abs(site.value).max(-1), np.abs(site.bias)):
            assert (leaf > 1e-6).all(), name


def test_trap_02_relative_bias_ignores_prefix(calls):
    """A prefix whose slots are all closed leaves the logits of no prefix (also trap 6: a gate that closes)."""
    closed = _with_bias(calls.prefix(offset=0), [True] * LENGTH)
    _equal(calls.logits(closed), calls.logits(), 1e-6)


def test_trap_02_no_prefix_is_the_plain_model(calls):
    """Bit for bit: it is the same program."""
    extra = {"encoder_tokens": calls.encoder_tokens} if calls.model_config.is_encoder_decoder else {}
    plain = jax.make_jaxpr(lambda v: calls.model.apply(v, calls.tokens, **extra))(calls.pair.variables)
    none = jax.make_jaxpr(lambda v: calls.model.apply(v, calls.tokens, prefix=None, **extra))(calls.pair.variables)
    assert str(plain) == str(none)
    empty = jax.jit(calls.apply)(Prefix(position_offset=jnp.int32(0)))
    np.testing.assert_array_equal(empty, jax.jit(calls.apply)())


def test_trap_02_closed_slots_have_finite_gradients(llama):
    prefix = _with_bias(llama.prefix(), [True, False, True, True])
    gradients = tm.jit(jax.grad(lambda k: llama.apply(tm.with_leaves(prefix, k)).std()))(tm.differentiable(prefix))
    for leaf in gradients["decoder"].values():
        assert np.isfinite(leaf).all() and (leaf[:, :, 0] == 0).all() and np.abs(leaf[:, :, 1]).min() > 0


@pytest.mark.parametrize("layers", [(0,), (1,)])
def test_trap_03_layer_subsets_keep_the_shared_bias(t5, layers):
    """Closed slots in some of T5's layers, the first or a later one, leave the logits of no prefix."""
    subset = {site: layers for site in t5.model_config.sites}
    closed = _with_bias(t5.prefix(layers=subset), [True] * LENGTH)
    _equal(t5.logits(closed), t5.logits(), 1e-6)


def test_trap_04_every_query_sees_the_whole_prefix_and_tokens_causally(calls):
    prefix = calls.prefix()
    before = np.asarray(calls.logits(prefix))
    for slot in (0, LENGTH - 1):
        moved = prefix.decoder.replace(value=prefix.decoder.value.at[:, :, slot].add(1.0))
        after = np.asarray(calls.logits(prefix.replace(decoder=moved)))
        assert (np.abs(after - before).max(-1) > 1e-3).all(), f"a query does not see slot {slot}"
    tokens = calls.tokens.copy()
    tokens[:, 3] = (tokens[:, 3] + 5) % 50 + 2
    after = np.asarray(calls.logits(prefix, tokens))
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (np.abs(after - before).max(-1)[:, 3:] > 1e-4).all()


def test_trap_05_zero_prefix_is_not_a_no_op(calls):
    zeros = jax.tree.map(jnp.zeros_like, calls.prefix(offset=0))
    assert np.abs(np.asarray(calls.logits(zeros)) - np.asarray(calls.logits())).max() > 1e-2


@pytest.mark.parametrize("offset", [0, 3, LENGTH])
def test_trap_07_position_offset(gpt2, offset):
    """The position of the first token is the offset, whatever the length; `positions` count from there."""
    prefix = gpt2.prefix(offset=offset)
    expected = gpt2.logits(gpt2.prefix(offset=0), positions=jnp.arange(COLUMNS) + offset)
    np.testing.assert_array_equal(gpt2.logits(prefix, positions=jnp.arange(COLUMNS)), expected)
    if offset:
        zero = gpt2.logits(gpt2.prefix(offset=0), positions=jnp.arange(COLUMNS))
        assert np.abs(np.asarray(zero) - np.asarray(expected)).max() > 1e-2


def test_trap_08_rotary_conversion_keeps_the_logits(llama):
    """K_0 = R(-m) K_m: the converted prefix gives the same logits, the unconverted one does not."""
    prefix = llama.prefix()
    expected = llama.logits(prefix)
    _equal(llama.logits(with_offset(prefix, llama.model_config, 0)), expected, 1e-5)
    wrong = llama.logits(prefix.replace(position_offset=jnp.int32(0)))
    assert np.abs(np.asarray(wrong) - np.asarray(expected)).max() > 1e-2


def test_trap_10_sliding_window_exempts_the_prefix():
    """One layer, a window of 2: the last query sees no token but two, and the whole prefix."""
    calls = Calls(tm.llama("Mistral", sliding_window=2, num_hidden_layers=1))
    prefix = calls.prefix()
    before = np.asarray(calls.logits(prefix))[:, -1]
    tokens = calls.tokens.copy()
    tokens[:, : COLUMNS - 2] = 7
    np.testing.assert_array_equal(np.asarray(calls.logits(prefix, tokens))[:, -1], before)
    for slot in range(LENGTH):
        moved = prefix.decoder.replace(key=prefix.decoder.key.at[:, :, slot].multiply(-1.0))
        after = np.asarray(calls.logits(prefix.replace(decoder=moved)))[:, -1]
        assert np.abs(after - before).max() > 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_trap_11_a_filled_cache_does_not_disable_the_prefix(family):
    """Tokens in two calls, the first one's keys and values as a cache, equal the tokens in one call."""
    calls = _calls(family)
    prefix = calls.prefix()

    @tm.jit
    def parts(prefix):
        def hidden(columns, past):
            return calls.model.apply(
                calls.pair.variables, calls.tokens[:, columns], jnp.arange(COLUMNS)[columns], None, prefix, past,
                method="hidden",
            )  # fmt: skip

        first, own = hidden(slice(0, 4), ())
        past = Past(own.key, own.value, jnp.ones((1, 1, 1, 1, 4), bool), jnp.arange(4))
        second, _ = hidden(slice(4, None), (past,))
        return calls.model.apply(calls.pair.variables, jnp.concatenate([first, second], 1), method="logits")

    _equal(parts(prefix), calls.logits(prefix), 1e-5)


def test_trap_12_head_shapes_come_from_the_configuration():
    """FLAN-T5-small's d_kv 64 with 6 heads of 512; grouped queries with an explicit head_dim."""
    flan = from_hf(
        dict(
            model_type="t5",
            vocab_size=8,
            d_model=512,
            d_kv=64,
            d_ff=8,
            num_layers=2,
            num_heads=6,
            tie_word_embeddings=False,
        )
    )
    assert (flan.kv_heads, flan.head_dim) == (6, 64)
    shapes = dict(vocab_size=8, hidden_size=24, intermediate_size=8, num_hidden_layers=2, num_attention_heads=6)
    grouped = from_hf(dict(model_type="llama", **shapes, num_key_value_heads=2, head_dim=10))
    assert (grouped.kv_heads, grouped.head_dim) == (2, 10)
    check(tm.random_prefix(flan, 3), flan)
    check(tm.random_prefix(grouped, 3), grouped)
    wrong = jnp.zeros((2, 6, 3, 512 // 6))
    with pytest.raises(UserError, match=r"\(2, 6, 3, 64\)"):
        check(Prefix(encoder=PrefixKV(wrong, wrong)), flan)
    with pytest.raises(UserError, match="only decoder"):
        check(tm.random_prefix(flan, 3), grouped)


def test_trap_13_shorter_prefixes_in_a_bank_are_masked(calls):
    """A prefix of two slots, and the same filled up to four with large numbers whose slots are closed."""
    whole = calls.prefix(offset=2)

    def cut(site):
        return None if site is None else site.replace(key=site.key[:, :, :2], value=site.value[:, :, :2])

    def filled(site):
        return None if site is None else site.replace(key=site.key.at[:, :, 2:].set(99.0), value=site.value * 1.0)

    sites = ("decoder", "encoder", "cross")
    short = whole.replace(**{name: cut(getattr(whole, name)) for name in sites})
    padded = whole.replace(**{name: filled(getattr(whole, name)) for name in sites})
    assert (length(short), length(padded)) == (2, 4)
    expected = calls.logits(short)
    _equal(calls.logits(_with_bias(padded, [False, False, True, True])), expected, 1e-5)
    open_slots = calls.logits(_with_bias(padded, [False] * LENGTH))
    assert np.abs(np.asarray(open_slots) - np.asarray(expected)).max() > 1e-2


def test_trap_15_the_prefix_is_shared_by_broadcasting(llama):
    """Batch and beams read one prefix: no array in the program holds it once for each row."""
    prefix, beams = llama.prefix(), np.stack([llama.tokens, llama.tokens[::-1]], 1)  # [2, 2, T]
    found = np.asarray(llama.logits(prefix, beams))
    alone = np.asarray(llama.logits(prefix))
    _equal(found[:, 0], alone, 1e-5)
    _equal(found[:, 1], alone[::-1], 1e-5)
    program = jax.make_jaxpr(lambda p: llama.apply(p, beams))(prefix).jaxpr
    k, d = llama.model_config.kv_heads, llama.model_config.head_dim
    tiled = {(2, k, LENGTH, d), (2, 2, k, LENGTH, d), (4, k, LENGTH, d)}
    shapes = {v.aval.shape for eqn in _equations(program) for v in eqn.outvars}
    assert not shapes & tiled
    assert any(s[-1] == LENGTH for s in shapes), "the logits of the prefix's slots must be there"


def test_trap_19_a_prefix_adds_no_output_positions(calls):
    assert calls.logits(calls.prefix()).shape == calls.logits().shape == (2, COLUMNS, 61)


@pytest.mark.parametrize("family", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_trap_21_bfloat16_base_has_float32_prefix_and_softmax(family):
    calls = _calls(family)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), calls.pair.variables)
    prefix, target = calls.prefix(), np.random.default_rng(1).standard_normal((2, COLUMNS, 61))

    def loss(trained, variables):
        logits = calls.apply(tm.with_leaves(prefix, trained), variables=variables)
        assert logits.dtype == jnp.float32
        return (logits * target).sum()

    trained = tm.differentiable(prefix)
    gradients = tm.jit(jax.grad(loss))
    low, full = gradients(trained, half), gradients(trained, calls.pair.variables)
    for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(full), strict=True):
        assert a.dtype == jnp.float32
        assert float((a * b).sum() / (jnp.linalg.norm(a) * jnp.linalg.norm(b))) > 0.98
    program = jax.make_jaxpr(loss)(trained, half).jaxpr
    exponentials = [eqn for eqn in _equations(program) if eqn.primitive.name == "exp"]
    assert exponentials and all(v.aval.dtype == jnp.float32 for eqn in exponentials for v in eqn.invars)


def test_trap_22_a_fully_padded_row_is_finite(calls):
    segments = np.zeros_like(calls.tokens)
    extra = {"encoder_tokens": calls.encoder_tokens} if calls.model_config.is_encoder_decoder else {}

    @tm.jit
    def run(prefix):
        return calls.model.apply(calls.pair.variables, calls.tokens, segment_ids=segments, prefix=prefix, **extra)

    assert np.isfinite(run(calls.prefix())).all() and MASKED < -1e9


def test_trap_23_only_target_positions_meet_the_vocabulary():
    """The compiled FLOPs grow by 2 E V with each target position, and the vocabulary product has M rows."""
    calls = Calls(tm.gpt2())
    model_config = dataclasses.replace(calls.model_config, vocab_size=4096)
    model = build(model_config)
    shapes = jax.eval_shape(lambda k: model.init(k, calls.tokens), jax.random.key(0))

    def flops(targets):
        columns = jnp.zeros((2, targets), int)
        run = jax.jit(lambda v: model.apply(v, calls.tokens, target_positions=columns))
        return run.lower(shapes).compile().cost_analysis()["flops"]

    one, five = flops(1), flops(5)
    assert (five - one) / 4 == pytest.approx(2 * 2 * model_config.d_model * 4096, rel=0.01)


def test_target_positions_are_gathered(calls):
    columns = np.array([[0, 6, 3], [5, 5, 1]])
    extra = {"encoder_tokens": calls.encoder_tokens} if calls.model_config.is_encoder_decoder else {}
    run = tm.jit(
        lambda p: calls.model.apply(calls.pair.variables, calls.tokens, target_positions=columns, prefix=p, **extra)
    )
    prefix = calls.prefix()
    whole = np.asarray(calls.logits(prefix))
    _equal(run(prefix), np.take_along_axis(whole, columns[..., None], 1), 1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_gradient_runs_below_the_first_trained_layer(family):
    """By the matrix products of the gradient's program: layers below the first prefixed one are not walked back."""
    calls = Calls(FAMILIES[family](**{"gpt2": {"n_layer": 6}, "llama": {"num_hidden_layers": 6}}[family]))
    forward = _flops(jax.make_jaxpr(calls.apply)(calls.prefix()).jaxpr)

    def backward(layers):
        prefix = calls.prefix(layers={"decoder": layers})
        program = jax.make_jaxpr(jax.grad(lambda t: calls.apply(tm.with_leaves(prefix, t)).sum()))(
            tm.differentiable(prefix)
        )
        return _flops(program.jaxpr) - forward

    everywhere, top, upper = backward(None), backward((5,)), backward((3, 4, 5))
    # The same, but for the vocabulary: one layer of six, three of six. And no gradient of any weight is computed.
    assert everywhere < 1.5 * forward
    assert top < 0.35 * everywhere
    assert upper < 0.65 * everywhere


def test_rematerialised_gradients_equal_plain(llama):
    prefix = llama.prefix()
    again = Calls(llama.pair._replace(model=build(llama.model_config, rematerialise=True)))

    def gradients(which):
        return tm.jit(jax.grad(lambda t: which.apply(tm.with_leaves(prefix, t)).std()))(tm.differentiable(prefix))

    jax.tree.map(lambda a, b: _equal(a, b, 1e-6), gradients(again), gradients(llama))


def _equations(program):
    """All equations of a program, those inside of it included."""
    for eqn in program.eqns:
        yield eqn
        for inner in _inner(eqn):
            yield from _equations(inner)


def _inner(eqn):
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if hasattr(part, "eqns"):
                yield part
            elif hasattr(getattr(part, "jaxpr", None), "eqns"):
                yield part.jaxpr


def _flops(program):
    """Multiplications and additions of a program's matrix products, loops counted as often as they run."""
    total = 0
    for eqn in program.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * int(np.prod([shape[axis] for axis in contract]))
        total += eqn.params.get("length", 1) * sum(_flops(inner) for inner in _inner(eqn))
    return total
