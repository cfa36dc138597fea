"""Cuts, bans and the search for the best tokens, against transformers' processors and plain sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.decoding import GenerationConfig
from prefix_jax.decoding.logits_processing import best, repeating, top_k_top_p

torch = pytest.importorskip("torch")
processors = pytest.importorskip("transformers.generation.logits_process")


@pytest.mark.parametrize("vocab", [40, 128 * 9, 128 * 40 + 17, 5003])
@pytest.mark.parametrize(("beams", "count"), [(1, 1), (1, 6), (3, 6), (5, 10)])
def test_best_is_top_k_over_beams(vocab, beams, count):
    scores = jax.random.normal(jax.random.key(vocab), (4, beams, vocab))
    scores = scores.at[:, 0, : vocab // 2].set(-jnp.inf)
    values, beam, token = best(scores, count)
    expected, place = jax.lax.top_k(scores.reshape(4, -1), count)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(beam * vocab + token, place)


def test_best_finds_the_tail_that_fills_no_chunk():
    vocab = 128 * 40 + 3
    scores = jnp.zeros((1, 2, vocab)).at[0, 1, vocab - 1].set(2.0).at[0, 0, 700].set(1.0)
    values, beam, token = best(scores, 2)
    assert values.tolist() == [[2.0, 1.0]] and beam.tolist() == [[1, 0]] and token.tolist() == [[vocab - 1, 700]]


@pytest.mark.parametrize("ngram", [1, 2, 3, 4])
def test_repeating_parity(ngram):
    rng = np.random.default_rng(ngram)
    length = np.array([2, 7, 20, 20])
    history = rng.integers(0, 3, (4, 2, 20))
    found = np.asarray(repeating(jnp.asarray(history), jnp.asarray(length), ngram, 6))
    processor = processors.NoRepeatNGramLogitsProcessor(ngram)
    for row in range(4):
        for beam in range(2):
            known = torch.tensor(history[row, beam, : length[row]])[None]
            banned = processor(known, torch.zeros(1, 6)).numpy()[0] == -np.inf
            np.testing.assert_array_equal(found[row, beam], banned)
    assert found.any()


@pytest.mark.parametrize("options", [dict(temperature=0.7), dict(top_k=5), dict(top_p=0.6), dict(top_k=900)])
def test_cut_parity(options):
    _check_cut(GenerationConfig(strategy="sample", **options))


def test_cut_together_parity():
    _check_cut(GenerationConfig(strategy="sample", temperature=1.7, top_k=12, top_p=0.7))
    _check_cut(GenerationConfig(strategy="sample", top_p=1e-6))


def _check_cut(options):
    logits = np.random.default_rng(0).normal(size=(5, 301)).astype(np.float32) * 2
    expected = processors.TemperatureLogitsWarper(options.temperature)(None, torch.tensor(logits))
    if options.top_k:
        expected = processors.TopKLogitsWarper(options.top_k)(None, expected)
    if options.top_p < 1:
        expected = processors.TopPLogitsWarper(options.top_p)(None, expected)
    np.testing.assert_allclose(top_k_top_p(jnp.asarray(logits), options), expected.numpy(), rtol=1e-6)
