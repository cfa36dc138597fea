"""With a prefix, cached decoding gives what plain forward passes over the whole sequence give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.decoding import GenerationConfig, generate, make_inputs
from tests.decoding import reference
from tests.models import torch_models as tm

STEPS, WIDTH = 10, 9
LAYERS = {"gpt2": {"decoder": (1,)}, "t5": {"encoder": (2,), "decoder": (0,)}}


@pytest.fixture(scope="module", params=["gpt2", "llama", "mistral_window", "bloom", "t5"])
def case(request):
    """A network, a plain forward over (prompt, new tokens), inputs, and prefixes whose tokens start at m and at 0.

    With ALiBi, the slots of the first have distances, and those of the second no bias.
    """
    pair = reference.network(request.param)
    token_lists = reference.prompts(4, 3, WIDTH)
    layers = LAYERS.get(request.param)
    prefixes = [tm.random_prefix(pair.model_config, 7, 1, offset, layers) for offset in (None, 0)]
    return pair, _forward(pair), token_lists, prefixes


def _forward(pair):
    """`(prefix, prompt, new tokens) -> log-probabilities [len(new) + 1, V]` of every next token; one program."""

    @jax.jit
    def decoder_only(prefix, tokens, length):
        segments = (jnp.arange(tokens.size) < length).astype(jnp.int32)[None]
        return jax.nn.log_softmax(pair.model.apply(pair.variables, tokens[None], None, segments, prefix=prefix)[0])

    @jax.jit
    def encoder_decoder(prefix, source, length, tokens):
        segments = (jnp.arange(source.size) < length).astype(jnp.int32)[None]
        logits = pair.model.apply(
            pair.variables, tokens[None], encoder_tokens=source[None], encoder_segment_ids=segments, prefix=prefix
        )
        return jax.nn.log_softmax(logits[0])

    def padded(ids, width):
        return jnp.asarray(ids + [0] * (width - len(ids)), jnp.int32)

    def forward(prefix, prompt, new):
        if pair.model_config.is_encoder_decoder:
            start = [pair.model_config.decoder_start_id, *new]
            scores = encoder_decoder(prefix, padded(prompt, WIDTH), len(prompt), padded(start, STEPS + 1))
            return np.asarray(scores[: len(start)])
        whole = prompt + new
        scores = decoder_only(prefix, padded(whole, WIDTH + STEPS), len(whole))
        return np.asarray(scores[len(prompt) - 1 : len(whole)])

    return forward


def _decoded(pair, prefix, token_lists, options):
    inputs = make_inputs(token_lists, WIDTH + 3, len(token_lists), range(len(token_lists)))
    found = jax.device_get(generate(pair.model, pair.variables, prefix, inputs, options))
    return [row[:length].tolist() for row, length in zip(found.tokens, found.lengths, strict=True)], found.scores


def _roll_out(forward, prefix, prompt, end):
    new = []
    while len(new) < STEPS and end not in new:
        new.append(int(forward(prefix, prompt, new)[-1].argmax()))
    return new


@pytest.mark.parametrize("which", [0, 1], ids=["offset_length", "offset_zero"])
def test_greedy_equals_uncached_forward(case, which):
    pair, forward, token_lists, prefixes = case
    found, scores = _decoded(pair, prefixes[which], token_lists, GenerationConfig(strategy="greedy", max_length=STEPS))
    bare, _ = _decoded(pair, None, token_lists, GenerationConfig(strategy="greedy", max_length=STEPS))
    assert found != bare
    for prompt, new, score in zip(token_lists, found, scores, strict=True):
        assert new == _roll_out(forward, prefixes[which], prompt, pair.model_config.eos_id)
        assert score == pytest.approx(_score(forward, prefixes[which], prompt, new), abs=1e-4)


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.nightly)], ids=["offset_length", "offset_zero"])
def test_beam_score_equals_uncached_forward(case, which):
    """Every returned sequence has the score that a plain forward gives it, and none is worse than the greedy one."""
    pair, forward, token_lists, prefixes = case
    found, scores = _decoded(
        pair, prefixes[which], token_lists, GenerationConfig(strategy="beam", beams=3, max_length=STEPS)
    )
    for prompt, new, score in zip(token_lists, found, scores, strict=True):
        assert new[-1] == pair.model_config.eos_id or len(new) == STEPS
        assert score == pytest.approx(_score(forward, prefixes[which], prompt, new), abs=1e-4)


def _score(forward, prefix, prompt, new):
    scores = forward(prefix, prompt, new)
    return sum(scores[place, token] for place, token in enumerate(new)) / len(new)


def test_beam_search_equals_uncached_search(case):
    """The whole search, written out in Python over plain forward passes, with a prefix."""
    pair, forward, token_lists, prefixes = case
    options = GenerationConfig(strategy="beam", beams=3, max_length=6)
    found, scores = _decoded(pair, prefixes[0], token_lists, options)
    for prompt, new, score in zip(token_lists, found, scores, strict=True):
        tokens, expected = _plain_beam(forward, prefixes[0], prompt, pair.model_config.eos_id, options)
        assert score == pytest.approx(expected, abs=1e-4)
        assert new == tokens


def _plain_beam(forward, prefix, prompt, end, options):
    running, finished = [((), 0.0)], []
    for length in range(1, options.max_length + 1):
        candidates = []
        for tokens, score in running:
            row = forward(prefix, prompt, list(tokens))[-1]
            candidates += [((*tokens, int(t)), score + row[t]) for t in np.argsort(-row)[: 2 * options.beams]]
        candidates = sorted(candidates, key=lambda pair: -pair[1])[: 2 * options.beams]
        ends = [tokens[-1] == end or length == options.max_length for tokens, _ in candidates]
        for (tokens, score), over in list(zip(candidates, ends, strict=True))[: options.beams]:
            if over:
                finished.append((score / length**options.length_penalty, tokens))
        finished = sorted(finished, reverse=True)[: options.beams]
        running = [c for c, over in zip(candidates, ends, strict=True) if not over][: options.beams]
        if not running or (
            len(finished) == options.beams and running[0][1] / length**options.length_penalty <= finished[-1][0]
        ):
            break
    return list(finished[0][1]), finished[0][0]
