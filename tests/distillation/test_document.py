"""A document as a prefix: what it holds, and that a text after it is as after the document itself."""

import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.distillation import closed_form, document
from prefix_jax.errors import UserError
from tests.parity.cases import CASES

IDS = np.arange(3, 24, dtype=np.int32)
TEXT = np.array([30, 31, 5, 6, 7], np.int32)


@pytest.fixture(scope="module")
def pair():
    """A tiny Llama with two query heads for each KV head."""
    return CASES["llama"].pair()


@pytest.fixture(scope="module")
def read(pair):
    return document.read(pair.model, pair.variables, IDS, chunk=8)


def test_chunks_over_a_cache_are_one_reading(pair, read):
    """21 tokens in chunks of 8: the last one is padded."""
    _, whole = pair.model.apply(pair.variables, jnp.asarray(IDS)[None], method="hidden")
    np.testing.assert_allclose(read.decoder.key, whole.key[:, 0], atol=1e-5)
    np.testing.assert_allclose(read.decoder.value, whole.value[:, 0], atol=1e-5)
    assert int(read.position_offset) == len(IDS)


def test_a_text_after_the_prefix_is_a_text_after_the_document(pair, read):
    joined = pair.model.apply(pair.variables, np.concatenate([IDS, TEXT])[None])[:, len(IDS) :]
    found = pair.model.apply(pair.variables, TEXT[None], prefix=read)
    np.testing.assert_allclose(found, joined, atol=2e-5)


def test_queries_are_those_of_attention(pair, read):
    """Their attention over the document and the text is that which the model leaves in its collection."""
    from prefix_jax.models.layers import INTERMEDIATES

    found = document.queries(pair.model, pair.variables, read, [TEXT, TEXT[:3]], most=1000)
    config = pair.model.model_config
    groups = config.heads // config.kv_heads
    assert found.shape == (config.layers, config.kv_heads, 8 * groups, config.head_dim)
    _, state = pair.model.apply(pair.variables, TEXT[None], prefix=read, method="hidden", mutable=[INTERMEDIATES])
    weights = state[INTERMEDIATES]["layers"]["0"]["attention"]["weights"][:, 0]  # [layers, K, G, T, slots + T]
    first = found.reshape(*found.shape[:2], 8, groups, -1)[:, :, :5]
    logits = np.einsum("lktgd,lknd->lkgtn", first, read.decoder.key)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    own = weights[..., : len(IDS)]
    np.testing.assert_allclose(shares, own / own.sum(-1, keepdims=True), atol=1e-5)
    few = document.queries(pair.model, pair.variables, read, [TEXT, TEXT[:3]], most=6)
    assert 0 < few.shape[2] <= 6


def test_a_closed_form_as_long_as_the_document_is_the_document(pair, read):
    queries = document.queries(pair.model, pair.variables, read, [IDS, IDS[::-1]], most=1000)
    found, errors = closed_form.compress(read, queries, len(IDS))
    expected = pair.model.apply(pair.variables, TEXT[None], prefix=read)
    np.testing.assert_allclose(pair.model.apply(pair.variables, TEXT[None], prefix=found), expected, atol=1e-3)
    assert errors.mass.shape == errors.output.shape == read.decoder.key.shape[:2] and errors.output.max() < 1e-3
    _, worse = closed_form.compress(read, queries, 4)
    assert worse.output.mean() > 100 * errors.output.mean()


def test_baselines_hold_tokens_of_the_document(read):
    short = document.first(read, 5)
    np.testing.assert_array_equal(short.decoder.key, read.decoder.key[:, :, :5])
    assert int(short.position_offset) == 5
    for slots in (1, 4, 9, 20, 21):
        found = document.spread(read, slots, chunk=3)
        assert found.decoder.key.shape[2] == slots and int(found.position_offset) == len(IDS)
        np.testing.assert_array_equal(found.decoder.key[:, :, 0], read.decoder.key[:, :, 0])
    keys = np.asarray(document.spread(read, 7, chunk=3).decoder.key)
    places = [int((read.decoder.key == keys[:, :, i : i + 1]).all((0, 1, 3)).argmax()) for i in range(7)]
    assert places == sorted(set(places)) and (places[0], places[-1]) == (0, 20)


@pytest.mark.parametrize("name,said", [("bloom", "ALiBi"), ("mistral_window", "sees? "), ("t5", "decoder-only")])
def test_models_that_cannot_have_a_document_are_refused(name, said):
    config = CASES[name].pair().model.model_config
    with pytest.raises(UserError, match=said):
        document.check(config, 500)


def test_a_document_longer_than_the_context_is_refused(pair):
    config = pair.model.model_config
    document.check(config, config.context_length - 8, room=8)
    with pytest.raises(UserError, match="positions"):
        document.check(config, config.context_length - 8, room=9)
