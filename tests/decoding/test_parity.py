"""Greedy decoding and beam search against transformers' generate on random networks, token for token."""

import jax
import numpy as np
import pytest

from prefix_jax.decoding import GenerationConfig, generate, make_inputs
from tests.decoding import reference
from tests.parity.cases import named

MARGIN = 1e-4
PAD = (reference.PAD,)
ALL = dict(no_repeat_ngram=3, min_length=4, banned_tokens=(0, 7, 8), length_penalty=0.6, beams=5)
# After a pad token transformers' M2M-100 has no position; Marian's models ban it.
BANS = {family: dict(banned_tokens=PAD) for family in ("m2m_100", "marian")}
FORCED = dict(
    banned_tokens=PAD, forced_bos=9, forced_eos=(1,), banned_sequences=((5,), (11, 12), (20, 21, 22), (9, 30))
)
# Sequences of two tokens that come up often are banned.
PAIRS = dict(banned_sequences=tuple((first, second) for first in range(2, 40) for second in range(2, 61, 3)))
GREEDY = [
    *((family, BANS.get(family, dict())) for family in named("decoding")),
    *((family, dict(no_repeat_ngram=2, min_length=6, banned_tokens=(0, 5, 17))) for family in ("gpt2", "t5")),
    ("m2m_100", {**FORCED, "no_repeat_ngram": 2, "min_length": 3}),
    ("gpt2", PAIRS),
]
BEAM = [
    *((family, BANS.get(family, dict())) for family in named("decoding")),
    *((family, ALL) for family in ("gpt2", "llama", "t5_gated")),
    ("gpt2", dict(max_length=1)),
    ("gpt2", dict(length_penalty=-0.5, no_repeat_ngram=1, beams=2)),
    ("t5", dict(length_penalty=0.3, min_length=3)),
    ("llama", dict(length_penalty=2.0)),
    ("m2m_100", FORCED),
    ("t5", PAIRS),
    ("t5", dict(length_penalty=0.0, beams=4, no_repeat_ngram=1)),
]
SEEDS = range(4)


def _ours(pair, token_lists, options):
    inputs = make_inputs(token_lists, 11, len(token_lists) + 1, range(len(token_lists)))
    found = jax.device_get(generate(pair.model, pair.variables, None, inputs, options))
    assert found.lengths[-1] == 0 and (found.tokens[-1] == pair.model_config.pad_id).all()
    rows = [found.tokens[row, : found.lengths[row]].tolist() for row in range(len(token_lists))]
    return rows, found.scores[:-1]


@pytest.mark.parametrize(("family", "changes"), GREEDY)
def test_greedy_parity(family, changes):
    options = GenerationConfig(strategy="greedy", **{"max_length": 16, **changes})
    compared, total, ended = 0, 0, 0
    for seed in SEEDS:
        pair = reference.network(family, seed)
        token_lists = reference.prompts(6, seed)
        expected = reference.generate(pair.torch, token_lists, options, pair.model_config.is_encoder_decoder)
        found, _ = _ours(pair, token_lists, options)
        for mine, theirs, margin in zip(found, expected.tokens, expected.margins, strict=True):
            total += 1
            ended += len(mine) < options.max_length
            if margin > MARGIN:
                compared += 1
                assert mine == theirs
    assert compared >= 0.9 * total
    assert 0 < ended < total


@pytest.mark.parametrize(("family", "changes"), BEAM)
def test_beam_parity(family, changes):
    """Scores agree always; where the tokens differ, the scores say that it is a tie, and most do not differ."""
    options = GenerationConfig(strategy="beam", **{"max_length": 12, "beams": 3, **changes})
    same, total, ended = 0, 0, 0
    for seed in SEEDS:
        pair = reference.network(family, seed)
        token_lists = reference.prompts(6, seed + 10)
        expected = reference.generate(pair.torch, token_lists, options, pair.model_config.is_encoder_decoder)
        found, scores = _ours(pair, token_lists, options)
        np.testing.assert_allclose(scores, expected.scores, atol=MARGIN, rtol=1e-5)
        total += len(found)
        same += sum(mine == theirs for mine, theirs in zip(found, expected.tokens, strict=True))
        ended += sum(len(mine) < options.max_length for mine in found)
    assert same >= 0.95 * total
    # That some rows end keeps the case meaningful; a penalty above 1 is there to make the longest win.
    assert ended > 0 or options.max_length == 1 or options.length_penalty > 1
