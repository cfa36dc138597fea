"""Sampling: the right distribution and support, and the same draw for the same seed and row, whatever stands beside."""

import numpy as np
import pytest
from scipy import stats

from prefix_jax.decoding import GenerationConfig, decode_all, generate, make_inputs
from tests.decoding import reference

PROMPT = [7, 21, 3]


@pytest.fixture(scope="module")
def pair():
    return reference.network("llama", scale=0.9)


@pytest.fixture(scope="module")
def first(pair):
    """The model's probabilities of the first new token."""
    logits = pair.model.apply(pair.variables, np.array([PROMPT]))[0, -1]
    shares = np.exp(np.asarray(logits, np.float64))
    return shares / shares.sum()


def _first_tokens(pair, count=4096, **options):
    inputs = make_inputs([PROMPT] * count, len(PROMPT), count, range(count))
    settings = GenerationConfig(strategy="sample", max_length=1, **options)
    return np.asarray(generate(pair.model, pair.variables, None, inputs, settings).tokens)[:, 0]


def _p_value(tokens, probabilities):
    """Chi-square with rare tokens pooled, so that every cell expects 5 or more."""
    counts = np.bincount(tokens, minlength=probabilities.size)
    expected = probabilities * tokens.size
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    kept = wanted > 0
    assert observed[~kept].sum() == 0 and kept.sum() > 2
    return stats.chisquare(observed[kept], wanted[kept] / wanted[kept].sum() * observed.sum()).pvalue


def test_distribution(pair, first):
    tokens = _first_tokens(pair)
    assert _p_value(tokens, first) > 1e-3
    assert _p_value(tokens, np.roll(first, 1)) < 1e-9  # the test can fail


def test_temperature(pair, first):
    sharp = first**2 / (first**2).sum()
    assert _p_value(_first_tokens(pair, temperature=0.5), sharp) > 1e-3


def test_top_k_support(pair, first):
    kept = np.argsort(-first)[:4]
    share = np.where(np.isin(np.arange(first.size), kept), first, 0)
    tokens = _first_tokens(pair, top_k=4)
    assert set(tokens) == set(kept)
    assert _p_value(tokens, share / share.sum()) > 1e-3


def test_top_p_support(pair, first):
    order = np.argsort(-first)
    before = np.cumsum(first[order]) - first[order]
    kept = order[before < 0.5]
    assert 1 < len(kept) < first.size
    assert set(_first_tokens(pair, top_p=0.5)) == set(kept)


def test_seed_decides(pair):
    token_lists = reference.prompts(6, 1)
    options = dict(strategy="sample", max_length=8)
    runs = [
        decode_all(pair.model, pair.variables, None, token_lists, GenerationConfig(seed=seed, **options), 4)
        for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_row_does_not_depend_on_its_neighbours(pair):
    token_lists = reference.prompts(9, 2)
    options = GenerationConfig(strategy="sample", max_length=8, seed=3)
    runs = [decode_all(pair.model, pair.variables, None, token_lists, options, batch) for batch in (2, 4, 9)]
    assert runs[0] == runs[1] == runs[2]


def test_same_prompt_in_two_rows_draws_twice(pair):
    found = decode_all(
        pair.model, pair.variables, None, [PROMPT] * 8, GenerationConfig(strategy="sample", max_length=8), 8
    )
    assert len({tuple(row) for row in found}) > 1
