"""The calls around the search: batches, order, programs, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from prefix_jax.config import default_config
from prefix_jax.decoding import GenerationConfig, decode_all, generate, make_inputs
from prefix_jax.decoding.generate import _generate
from prefix_jax.errors import UserError
from tests.decoding import reference
from tests.models import torch_models as tm

GREEDY = GenerationConfig(strategy="greedy", max_length=6)


@pytest.fixture(scope="module")
def pair():
    return reference.network("gpt2")


def test_decode_all_keeps_order_and_strips_the_end(pair):
    token_lists = reference.prompts(7, 5)
    seen = []
    found = decode_all(pair.model, pair.variables, None, token_lists, GREEDY, 3, seen.append)
    assert seen == [3, 6, 7]
    expected = reference.generate(pair.torch, token_lists, GREEDY, False).tokens
    assert found == [row[:-1] if row[-1] == reference.END else row for row in expected]
    assert any(len(row) < GREEDY.max_length for row in found)


def test_decode_all_of_nothing(pair):
    assert decode_all(pair.model, pair.variables, None, [], GREEDY, 3) == []


def test_beam_result_does_not_depend_on_the_batch(pair):
    options = GenerationConfig(beams=3, max_length=6)
    token_lists = reference.prompts(5, 6)
    runs = [decode_all(pair.model, pair.variables, None, token_lists, options, batch) for batch in (2, 5)]
    assert runs[0] == runs[1]


def test_width_one_beam_is_greedy(pair):
    token_lists = reference.prompts(4, 7)
    beam = dataclasses.replace(GREEDY, strategy="beam", beams=1)
    runs = [decode_all(pair.model, pair.variables, None, token_lists, options, 4) for options in (beam, GREEDY)]
    assert runs[0] == runs[1]


def test_no_second_program_for_the_same_shapes(pair):
    """Other inputs, other prefix values, another seed: the same program. Weights and prefix are its arguments."""
    prefixes = [tm.random_prefix(pair.model_config, 4, seed) for seed in (0, 1)]
    inputs = [make_inputs(reference.prompts(4, seed), 12, 4, range(4)) for seed in (0, 1)]
    options = [GenerationConfig(strategy="sample", max_length=5, seed=seed) for seed in (0, 1)]
    generate(pair.model, pair.variables, prefixes[0], inputs[0], options[0])
    before = _generate._cache_size()
    moved = jax.tree.map(lambda leaf: leaf * 1.01, pair.variables)
    for variables, prefix, batch, option in zip((moved, moved), prefixes, inputs, options, strict=True):
        generate(pair.model, variables, prefix, batch, option)
    assert _generate._cache_size() == before


def test_options_come_from_the_config():
    section = default_config().decoding
    section.banned_tokens = (628, 198)
    options = GenerationConfig.from_config(section)
    assert options == GenerationConfig(banned_tokens=(628, 198))
    assert options.beams == section.beams and options.max_length == section.max_length


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(strategy="beams"), ["decoding.strategy", '"beams"', 'did you mean "beam"']),
        (dict(beams=0), ["decoding.beams=0", "at least 1"]),
        (dict(max_length=0), ["decoding.max_length=0"]),
        (dict(min_length=-1), ["decoding.min_length=-1"]),
        (dict(min_length=9, max_length=8), ["decoding.min_length=9", "decoding.max_length=8"]),
        (dict(no_repeat_ngram=-2), ["decoding.no_repeat_ngram=-2"]),
        (dict(temperature=0.0), ["decoding.temperature=0.0", "greedy"]),
        (dict(temperature=float("nan")), ["decoding.temperature=nan"]),
        (dict(top_k=-1), ["decoding.top_k=-1"]),
        (dict(top_p=0.0), ["decoding.top_p=0.0"]),
        (dict(top_p=1.5), ["decoding.top_p=1.5"]),
        (dict(length_penalty=float("inf")), ["decoding.length_penalty=inf"]),
        (dict(seed=-1), ["decoding.seed=-1"]),
    ],
)
def test_bad_option(change, words):
    with pytest.raises(UserError) as error:
        GenerationConfig(**change)
    assert all(word in str(error.value) for word in words)


def _refusal(pair, token_lists, options, prefix=None):
    with pytest.raises(UserError) as error:
        decode_all(pair.model, pair.variables, prefix, token_lists, options, 2)
    return str(error.value)


def test_banned_token_outside_the_vocabulary(pair):
    assert "61" in _refusal(pair, [[3]], dataclasses.replace(GREEDY, banned_tokens=(61,)))


def test_too_many_beams(pair):
    assert "decoding.beams=31" in _refusal(pair, [[3]], GenerationConfig(beams=31))


def test_empty_input(pair):
    assert "input 2 has no tokens" in _refusal(pair, [[3], []], GREEDY)


def test_window(pair):
    """40 positions: an input of 20, a prefix of 10 and 10 new tokens fit, one more does not."""
    prefix = tm.random_prefix(pair.model_config, 10)
    fits = dataclasses.replace(GREEDY, max_length=10)
    found = decode_all(pair.model, pair.variables, prefix, [[5] * 20], fits, 1)
    assert 0 < len(found[0]) <= 10
    message = _refusal(pair, [[5] * 20], dataclasses.replace(GREEDY, max_length=11), prefix)
    assert all(word in message for word in ("20 tokens", "offset of 10", "max_length=11", "41", "40", "at most 10"))
    without = dataclasses.replace(GREEDY, max_length=11)
    assert len(decode_all(pair.model, pair.variables, prefix.replace(position_offset=0), [[5] * 20], without, 1)) == 1


def test_prefix_of_another_model(pair):
    other = reference.network("llama")
    assert "made for" in _refusal(pair, [[3]], GREEDY, tm.random_prefix(other.model_config, 4))


def test_rows_beyond_the_inputs_do_not_keep_the_loop_running(pair):
    """A row of length 0 has ended: its tokens are padding and its score is 0."""
    inputs = make_inputs([[4, 9]], 8, 3, [0])
    for options in (GREEDY, GenerationConfig(beams=2, max_length=6)):
        found = jax.device_get(generate(pair.model, pair.variables, None, inputs, options))
        assert found.lengths[0] > 0 and not found.lengths[1:].any()
        assert (found.tokens[1:] == pair.model_config.pad_id).all() and not found.scores[1:].any()
        assert np.isfinite(found.scores).all()
