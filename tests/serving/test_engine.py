"""Continuous batching: what a request generates is what it generates alone, and nothing is compiled meanwhile."""

import numpy as np
import pytest

from prefix_jax import decoding
from prefix_jax.decoding.shelf import Kind
from prefix_jax.errors import UserError
from prefix_jax.serving.engine import Busy, End, Engine, Request, Sampling, Scores, Token
from tests.decoding import reference
from tests.decoding.test_bank import prefixes

KIND = Kind(16)
LENGTHS = (3, 9, 1, 5, 7, 2)
# Cases of windows, of relative positions, and with three sites and learned positions.
SAMPLINGS = {
    "gemma3": (
        Sampling(7, temperature=0),
        Sampling(6, temperature=0.7, top_k=5, top_p=0.9, seed=3),
        Sampling(5, temperature=1.3, seed=4),
    ),
    "t5": (Sampling(7, temperature=0), Sampling(7, temperature=0), Sampling(5, temperature=0.8, top_p=0.8, seed=9)),
    "bart": (Sampling(6, temperature=0), Sampling(6, temperature=0), Sampling(4, temperature=1.0, top_k=7, seed=1)),
}


def engine_of(pair, **changes) -> Engine:
    options = dict(slots=3, capacity=24, kind=KIND, prefixes=4, narrowest=12) | changes
    return Engine(pair.model, pair.variables, **options)


class Heard:
    """Collects the events of a request."""

    def __init__(self, ids, name, sampling, **more):
        self.events: list = []
        self.request = Request(list(ids), name, sampling, self.events.append, **more)

    @property
    def tokens(self) -> list[int]:
        return [event.id for event in self.events if isinstance(event, Token)]

    @property
    def end(self) -> End:
        assert isinstance(self.events[-1], End)
        return self.events[-1]


def alone(pair, prefix, ids, sampling) -> list[int]:
    options = decoding.GenerationConfig(
        strategy="sample" if sampling.temperature else "greedy",
        max_length=sampling.max_tokens,
        temperature=sampling.temperature or 1.0,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed,
    )
    return decoding.decode_all(pair.model, pair.variables, prefix, [ids], options, 1)[0]


def finish(engine: Engine) -> None:
    while engine.step():
        pass


@pytest.mark.parametrize("family", ["gemma3", "t5", pytest.param("bart", marks=pytest.mark.nightly)])
def test_each_request_generates_what_it_generates_alone(family):
    pair = reference.network(family)
    engine, own = engine_of(pair), prefixes(pair.model_config)
    engine.warm()
    for name, prefix in own.items():
        engine.put(name, prefix)
    programs = engine.programs()
    names = ["long", None, "short"] * 2
    prompts = [prompt[:length] for prompt, length in zip(reference.prompts(6, 3, 10), LENGTHS)]
    heard = [
        Heard(ids, name, SAMPLINGS[family][row % len(SAMPLINGS[family])])
        for row, (ids, name) in enumerate(zip(prompts, names))
    ]
    for one in heard[:4]:  # one more than there are slots
        engine.submit(one.request)
    engine.step()
    for one in heard[4:]:
        engine.submit(one.request)
    finish(engine)
    assert engine.programs() == programs and engine.counts == (0, 0)
    some = 0
    for one, ids, name in zip(heard, prompts, names):
        expected = alone(pair, own.get(name), ids, one.request.sampling)
        assert one.tokens == expected, name
        assert one.end.reason == ("length" if len(expected) == one.request.sampling.max_tokens else "stop")
        some += len(expected)
    assert some > 15


def test_a_beam_search_is_that_of_its_prefix_alone():
    """Of several lengths and penalties, by one program."""
    pair = reference.network("t5")
    engine, own = engine_of(pair, beams=3, beam_tokens=9, capacity=8), prefixes(pair.model_config)
    engine.put("long", own["long"])
    engine.warm()
    programs = engine.programs()
    for most, least, penalty, name in ((8, 3, 0.3, "long"), (5, 0, 1.0, None)):
        ids = [5 + most, 9, 4, 7]
        sampling = Sampling(most, least, beams=True, length_penalty=penalty)
        heard = Heard(ids, name, sampling)
        engine.submit(heard.request)
        finish(engine)
        options = decoding.GenerationConfig(
            beams=3, max_length=sampling.max_tokens, min_length=least, length_penalty=penalty
        )
        prefix = None if name is None else own[name]
        assert heard.tokens == decoding.decode_all(pair.model, pair.variables, prefix, [ids], options, 1)[0]
        assert heard.end.reason in ("stop", "length")
    assert engine.programs() == programs
    with pytest.raises(UserError, match="at most 8 new tokens"):
        engine.submit(Heard([3], None, Sampling(9, beams=True)).request)
    with pytest.raises(UserError, match="no beam search"):
        engine_of(pair).submit(Heard([3], None, Sampling(3, beams=True)).request)


@pytest.fixture(scope="module")
def pair():
    return reference.network("llama")


def test_log_probabilities_are_those_of_transformers(pair):
    engine, ids = engine_of(pair), [5, 9, 4, 7]
    heard = Heard(ids, None, Sampling(3, temperature=0, tops=2), scored=True)
    engine.submit(heard.request)
    finish(engine)
    whole = [*ids, *heard.tokens]
    torch = reference.torch
    with torch.no_grad():
        expected = torch.log_softmax(pair.torch(torch.tensor([whole])).logits[0].float(), -1).numpy()
    scores = heard.events[0]
    assert isinstance(scores, Scores)
    found = [*scores.tokens, *(event for event in heard.events if isinstance(event, Token))]
    assert [token.id for token in found] == whole[1:]
    for place, token in enumerate(found):
        np.testing.assert_allclose(token.score, expected[place, token.id], atol=1e-4)
        best = np.sort(expected[place])[::-1][:2]
        np.testing.assert_allclose([score for _, score in token.tops], best, atol=1e-4)


def test_a_prompt_that_begins_like_an_earlier_one_is_not_computed_again(pair):
    """From a slot that is free, that runs, and from an answer, as the next turn of a conversation is."""
    engine, own = engine_of(pair, slots=4), prefixes(pair.model_config)
    engine.warm()
    engine.put("a", own["long"])
    programs, shared = engine.programs(), list(range(3, 15))
    greedy = Sampling(6, min_tokens=6, temperature=0)

    def run(ids, name="a"):
        heard = Heard(ids, name, greedy)
        engine.submit(heard.request)
        finish(engine)
        assert heard.tokens == alone(pair, own["long"] if name else None, ids, greedy)
        return heard

    first = run([*shared, 20])
    assert first.request.cached == 0
    assert run([*shared, 21]).request.cached == len(shared)
    assert run([*shared, 20, *first.tokens[:4], 9]).request.cached == len(shared) + 5
    assert run([*shared, 21], None).request.cached == 0  # without the prefix
    running, other = Heard([*shared, 30, 31], None, greedy), Heard([*shared, 30, 32], None, greedy)
    engine.submit(running.request)
    engine.step()
    engine.submit(other.request)
    finish(engine)
    assert other.request.cached == len(shared) + 1
    assert other.tokens == alone(pair, None, [*shared, 30, 32], greedy)
    assert run([*shared, 33, 34]).request.cached == len(shared)
    engine.put("a", own["long"])  # another of that name
    assert run([*shared, 33, 35]).request.cached == 0
    assert engine.programs() == programs


def test_a_full_cache_is_not_reused_beyond_what_steps_leave(pair):
    engine, ids = engine_of(pair, slots=2, capacity=16), list(range(3, 14))
    greedy = Sampling(5, min_tokens=5, temperature=0)
    first, other = Heard(ids, None, greedy), Heard([5, 6], None, Sampling(9, min_tokens=9, temperature=0))
    engine.submit(first.request)
    engine.submit(other.request)
    finish(engine)
    again = Heard([*ids, *first.tokens[:4]], None, Sampling(1, temperature=0))
    engine.submit(again.request)
    finish(engine)
    assert again.request.cached == 14
    assert again.tokens == first.tokens[4:]


def test_cancelled_requests_leave_and_their_prefixes_with_them(pair):
    engine = engine_of(pair, slots=1)
    engine.put("a", prefixes(pair.model_config)["short"])
    long, waiting = (Heard([3, 4], "a", Sampling(20, min_tokens=20, temperature=0)) for _ in range(2))
    engine.submit(long.request)
    engine.submit(waiting.request)
    engine.step()
    with pytest.raises(UserError, match='"a" is in use'):
        engine.remove("a")
    engine.cancel(long.request)
    engine.cancel(waiting.request)
    engine.step()
    assert (long.end.reason, waiting.end.reason) == ("abort", "abort") and len(long.tokens) == 1
    engine.remove("a")
    assert engine.counts == (0, 0)


def test_what_does_not_fit_is_refused_at_once(pair):
    engine = engine_of(pair, queue=1, prefixes=1)
    heard = lambda ids, name, most: Heard(ids, name, Sampling(most)).request
    with pytest.raises(UserError, match="maximum context length is 24 tokens, and the request has 22 in the prompt"):
        engine.submit(heard([3] * 22, None, 3))
    with pytest.raises(UserError, match="no tokens"):
        engine.submit(heard([], None, 3))
    with pytest.raises(UserError, match="token id 99999"):
        engine.submit(heard([99999], None, 3))
    with pytest.raises(UserError, match='the model "b" does not exist'):
        engine.submit(heard([3], "b", 3))
    engine.submit(heard([3], None, 3))
    with pytest.raises(Busy, match="1 requests wait already"):
        engine.submit(heard([3], None, 3))
    with pytest.raises(UserError, match="has 40 virtual tokens, and there is room for 16"):
        engine.put("long", reference.tm.random_prefix(pair.model_config, 40, 1))
