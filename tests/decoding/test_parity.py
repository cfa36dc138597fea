"""Greedy decoding and beam search against transformers' generate on random networks, token for token."""

import pytest

from prefix_jax.decoding import GenerationConfig
from tests.decoding import reference
from tests.parity.cases import named, params

PAD = (reference.PAD,)
ALL = dict(no_repeat_ngram=3, min_length=4, banned_tokens=(0, 7, 8), length_penalty=0.6, beams=5)
FORCED = dict(
    banned_tokens=PAD, forced_bos=9, forced_eos=(1,), banned_sequences=((5,), (11, 12), (20, 21, 22), (9, 30))
)
# Sequences of two tokens that come up often are banned.
PAIRS = dict(banned_sequences=tuple((first, second) for first in range(2, 40) for second in range(2, 61, 3)))
PLAIN = [param for case in named("decoding") for param in params([case], reference.BANS.get(case, dict()))]
GREEDY = [
    *PLAIN,
    *((family, dict(no_repeat_ngram=2, min_length=6, banned_tokens=(0, 5, 17))) for family in ("gpt2", "t5")),
    ("m2m_100", {**FORCED, "no_repeat_ngram": 2, "min_length": 3}),
    ("gpt2", PAIRS),
]
# What beams add to greedy decoding are the masks of their ancestors: over learned positions, windows, linear biases,
# and three sites. All other families are compared by night.
BEAM_FAMILIES = ("gpt2", "gemma3", "bloom", "bart")
BEAM_PLAIN = [
    param if param.values[0] in BEAM_FAMILIES else pytest.param(*param.values, marks=pytest.mark.nightly)
    for param in PLAIN
]
BEAM = [
    *BEAM_PLAIN,
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


@pytest.mark.parametrize(("case", "changes"), GREEDY)
def test_greedy_parity(case, changes):
    found = reference.greedy(case, changes, SEEDS)
    assert not found.differ
    assert found.compared >= 0.9 * found.total
    assert 0 < found.ended < found.total


@pytest.mark.parametrize(("case", "changes"), BEAM)
def test_beam_parity(case, changes):
    """Scores agree always; where the tokens differ, the scores say that it is a tie, and most do not differ."""
    options = GenerationConfig(strategy="beam", **{"max_length": 12, "beams": 3, **changes})
    found = reference.beam(case, options, SEEDS)
    assert found.difference < reference.MARGIN
    assert found.same >= 0.95 * found.total
    # That some rows end keeps the case meaningful; a penalty above 1 is there to make the longest win.
    assert found.ended > 0 or options.max_length == 1 or options.length_penalty > 1
