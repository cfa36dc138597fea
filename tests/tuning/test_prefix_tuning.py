"""Prefix tuning: sites, starts and the counts that a hand can check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.models import build, from_hf
from prefix_jax.training.given import Given
from prefix_jax.tuning import TunedState, prefix, store
from prefix_jax.tuning.method import count
from tests.training.test_loss import SPEC as LLAMA
from tests.training.test_loss import random_base
from tests.training.test_step import T5


def method_for(model_config, words=(5, 6, 7), **options):
    config = default_config()
    config.prefix.update(options)
    model, base = build(model_config), random_base(model_config)
    return tuning.build(config, model, {"prefix": words}), base, model


def prefix_for(model_config, seed=0, words=(5, 6, 7), **options):
    method, base, _ = method_for(model_config, words, **options)
    return method.materialise(jax.jit(method.init)(jax.random.key(seed), base), base, None)[1]


@pytest.mark.parametrize("initialisation", ["random", "vocabulary"])
def test_a_shorter_prefix_is_the_beginning_of_a_longer_one(initialisation):
    options = dict(reparameterisation="none", initialisation=initialisation, position_offset="zero")
    short = prefix_for(T5, length=3, **options)
    long = prefix_for(T5, length=7, **options)
    for site in ("encoder", "decoder", "cross"):
        np.testing.assert_allclose(
            getattr(short, site).key, getattr(long, site).key[:, :, :3], rtol=1e-5, atol=1e-6, err_msg=site
        )


def test_text_start_is_the_models_own_keys_and_values():
    prefix = prefix_for(LLAMA, length=3, reparameterisation="none", initialisation="text")
    model = build(LLAMA)
    _, base, _ = method_for(LLAMA)
    _, own = model.apply(base, jnp.array([[5, 6, 7]]), method="hidden")
    np.testing.assert_allclose(prefix.decoder.key, own.key[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prefix.decoder.value, own.value[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_config", [LLAMA, T5], ids=["llama", "t5"])
@pytest.mark.parametrize("initialisation", ["vocabulary", "text"])
def test_the_mlp_starts_from_the_words_too(model_config, initialisation):
    options = dict(length=4, hidden=16, initialisation=initialisation)
    direct = prefix_for(model_config, reparameterisation="none", **options)
    through = prefix_for(model_config, reparameterisation="mlp", **options)
    for site in model_config.sites:
        a, b = getattr(direct, site), getattr(through, site)
        np.testing.assert_allclose(a.key, b.key, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(a.value, b.value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reparameterisation", ["none", "mlp"])
def test_trap_16_random_keys_have_the_models_own_scale(reparameterisation):
    prefix = prefix_for(T5, length=64, hidden=128, reparameterisation=reparameterisation, initialisation="random")
    own = prefix_for(T5, length=64, reparameterisation="none", initialisation="vocabulary")
    for site in T5.sites:
        ratio = np.std(getattr(prefix, site).key) / np.std(getattr(own, site).key)
        assert 0.7 < ratio < 1.4, (site, ratio)


def test_trap_01_three_sites_of_their_own_shape():
    prefix = prefix_for(T5, length=5, reparameterisation="none")
    assert prefix.encoder.key.shape == (2, 2, 5, 6)
    assert prefix.decoder.key.shape == prefix.cross.key.shape == (2, 2, 5, 6)
    only = prefix_for(T5, length=5, reparameterisation="none", sites="cross")
    assert only.encoder is None and only.decoder is None and only.cross is not None


def test_layer_subsets_and_offsets():
    prefix = prefix_for(LLAMA, length=5, reparameterisation="none", layers="1")
    assert prefix.decoder.layers == (1,) and prefix.decoder.key.shape[0] == 1
    assert prefix.position_offset == 5
    assert prefix_for(LLAMA, length=5, position_offset="zero").position_offset == 0


def counts(config: dict, **options) -> tuple[int, int]:
    model = build(from_hf(config))
    section = default_config()
    section.prefix.update(options)
    method = tuning.build(section, model)
    base = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    trainable = jax.eval_shape(method.init, jax.random.key(0), base)
    kept = jax.eval_shape(lambda t, b: method.export(t, b, None), trainable, base)
    return count(trainable), kept.count()


def test_frozen_slots_are_leaves_that_never_move():
    """Together with the others they are the prefix that is not frozen; a shorter or longer tree keeps them."""
    options = dict(length=5, reparameterisation="none", initialisation="text", gate=2.0)
    method, base, _ = method_for(LLAMA, frozen=2, **options)
    trainable = method.init(jax.random.key(0), base)
    mask = method.mask(trainable)["decoder"]
    assert {name for name, moves in mask.items() if not moves} == {"frozen_key", "frozen_value", "frozen_gate"}
    assert trainable["decoder"]["frozen_key"].shape[2] == 2 and trainable["decoder"]["key"].shape[2] == 3
    expected = prefix_for(LLAMA, **options)
    for slots in (5, 3, 7):
        found = method.materialise(method.resize(trainable, slots), base)[1].decoder
        assert found.key.shape[2] == found.bias.shape[2] == slots
        common = min(slots, 5)
        np.testing.assert_allclose(found.key[:, :, :common], expected.decoder.key[:, :, :common], rtol=1e-6)
        np.testing.assert_allclose(found.bias[:, :, :common], expected.decoder.bias[:, :, :common], rtol=1e-6)


def test_positions_after_a_document_stay_whatever_the_length():
    method, base, _ = method_for(LLAMA, length=5, reparameterisation="none", offset=20)
    trainable = method.init(jax.random.key(0), base)
    assert method.positions == 20 and int(method.materialise(trainable, base)[1].position_offset) == 20
    short = method.of_length(jnp.int32(3)).materialise(trainable, base)[1]
    assert int(short.position_offset) == 20 and (short.decoder.bias[..., 3:] == -jnp.inf).all()


def test_a_given_prefix_is_where_training_starts():
    start = prefix_for(LLAMA, length=4, reparameterisation="none", gate=16.0, initialisation="text", offset=9)
    options = dict(length=4, reparameterisation="none", gate=0.5, frozen=1, initialisation="given", offset=9)
    method, base, _ = method_for(LLAMA, **options)
    config = default_config()
    config.prefix.update(options)
    found = method.materialise(prefix.trainable_of(start, config.prefix), base)[1]
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(start), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    given = Given(start=start)
    assert given.started(method, config).init(None, None)["decoder"]["key"].shape[2] == 3
    for wrong, said in [
        ({"prefix.length": 5}, "4 slots"),
        ({"prefix.gate": 0.0}, "prefix.gate"),
        ({"prefix.layers": "0"}, "layers"),
        ({"prefix.reparameterisation": "mlp"}, "MLP"),
        ({"method": "prefix+lora"}, "method=prefix"),
    ]:
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict(wrong)
        with pytest.raises(UserError, match=said):
            given.started(method, other)
    with pytest.raises(UserError, match="given"):
        Given().started(method, config)


def test_parameter_counts_of_the_paper():
    medium = dict(model_type="gpt2", n_layer=24, n_embd=1024, n_head=16, vocab_size=50257)
    small = dict(model_type="gpt2", n_layer=12, n_embd=768, n_head=12, vocab_size=50257)
    assert counts(medium, length=10, reparameterisation="none") == (491_520, 491_520)
    assert counts(small, length=20, hidden=512) == (9_864_704, 368_640)
    assert counts(small, length=20, hidden=512, embedding=512) == (9_728_512, 368_640)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(sites="decodr"), "decodr.*did you mean"),
        (dict(sites="cross"), "has only: decoder"),
        (dict(reparameterisation="mpl"), "did you mean"),
        (dict(initialisation="text"), "prefix.text"),
        (dict(length=0), "prefix.length"),
        (dict(length=64), "window"),
        (dict(layers="0-7"), "from 0 to 1"),
        (dict(dropout=1.0), "dropout"),
    ],
)
def test_bad_options_are_one_sentence(options, named):
    with pytest.raises(UserError, match=named):
        method_for(LLAMA, words=(), **options)


ALIBI = from_hf(dict(model_type="bloom", vocab_size=41, n_layer=2, hidden_size=24, n_head=6))
DISTANT = dict(length=3, reparameterisation="none", initialisation="text", alibi="distance")


def test_with_alibi_slots_with_distances_are_words_before_the_text(tmp_path):
    """The text whose keys and values a prefix starts from does as much, near and far; without distances it does not."""
    method, base, model = method_for(ALIBI, **DISTANT)
    prefix = method.materialise(jax.jit(method.init)(jax.random.key(0), base), base, None)[1]
    ids = jnp.arange(20)[None] % 40
    expected = model.apply(base, jnp.concatenate([jnp.array([[5, 6, 7]]), ids], 1))[:, 3:]
    np.testing.assert_allclose(model.apply(base, ids, prefix=prefix), expected, rtol=1e-4, atol=1e-5)
    plain = model.apply(base, ids, prefix=prefix_for(ALIBI, **{**DISTANT, "alibi": "none"}))
    assert np.abs(plain - expected).max() > 1e-3
    store.save(tmp_path, TunedState(prefix), {"name": "x"}, ALIBI)
    loaded = store.load(tmp_path)[0].prefix
    assert loaded is not None and loaded.distances


@pytest.mark.parametrize("options", [{"position_offset": "zero"}, {}], ids=["offset_zero", "no_alibi"])
def test_distances_are_for_alibi(options):
    with pytest.raises(UserError, match="prefix.alibi"):
        method_for(ALIBI if options else LLAMA, **{**DISTANT, **options})
