"""Log-likelihoods of choices, beside those that transformers gives for each choice alone."""

import jax
import numpy as np
import pytest

from prefix_jax.decoding import choices
from prefix_jax.errors import UserError
from prefix_jax.training.loss import token_losses
from tests.decoding import reference
from tests.models import torch_models as tm
from tests.models.torch_models import torch

FAMILIES = ("gpt2", "llama", "mistral_window", "gemma3", "t5", "bart")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return reference.network(request.param)


def sets(count: int, seed: int) -> list[list[list[int]]]:
    """For each input, two to four choices of one to six tokens."""
    generator = np.random.default_rng(seed)
    return [
        [generator.integers(2, 61, generator.integers(1, 7)).tolist() for _ in range(generator.integers(2, 5))]
        for _ in range(count)
    ]


def expected(network, prompt: list[int], choice: list[int], encoder: bool) -> float:
    with torch.no_grad():
        if encoder:
            start = network.config.decoder_start_token_id
            logits = network(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *choice[:-1]]])
            ).logits[0]
        else:
            logits = network(input_ids=torch.tensor([[*prompt, *choice[:-1]]])).logits[0, len(prompt) - 1 :]
        return float(torch.log_softmax(logits.double(), -1)[range(len(choice)), choice].sum())


def test_sums_are_those_of_transformers(pair):
    prompts, given = reference.prompts(5, 3), sets(5, 4)
    encoder = pair.model_config.is_encoder_decoder
    done = []
    found = choices.score_all(pair.model, pair.variables, None, prompts, given, 2, done.append)
    assert done == [2, 4, 5]
    for prompt, own, sums in zip(prompts, given, found, strict=True):
        right = [expected(pair.torch, prompt, choice, encoder) for choice in own]
        np.testing.assert_allclose(sums, right, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", ["gemma3", "t5"])
def test_a_prefix_counts_as_in_one_pass_over_prompt_and_choice(family):
    pair = reference.network(family)
    prefix, encoder = tm.random_prefix(pair.model_config, 3, 1), pair.model_config.is_encoder_decoder
    prompts, given = reference.prompts(2, 6), sets(2, 7)
    apply = jax.jit(lambda variables, inputs: pair.model.apply(variables, **inputs, prefix=prefix))
    found = choices.score_all(pair.model, pair.variables, prefix, prompts, given, 2)
    start = [pair.model_config.decoder_start_id] if encoder else []
    for prompt, own, sums in zip(prompts, given, found, strict=True):
        for choice, total in zip(own, sums, strict=True):
            read = [*(start if encoder else prompt), *choice[:-1]]
            inputs = dict(tokens=padded(read))
            if encoder:
                inputs |= dict(encoder_tokens=padded(prompt), encoder_segment_ids=padded([1] * len(prompt)))
            logits = apply(pair.variables, inputs)[0][len(read) - len(choice) : len(read)]
            assert abs(float(-token_losses(logits, np.array(choice)).sum()) - total) < 1e-4


def padded(ids: list[int]) -> np.ndarray:
    return np.array([ids + [0] * (16 - len(ids))])


def test_one_program_for_the_same_shapes():
    pair = reference.network("llama")
    run = lambda seed: choices.score_all(
        pair.model, pair.variables, None, [[3, 4, 5, seed]] * 4, [[[5], [6, seed]]] * 4, 2
    )
    run(7)
    before = choices.log_likelihoods._cache_size()
    run(8)
    assert choices.log_likelihoods._cache_size() == before


def test_the_end_of_the_window_is_used_and_not_passed():
    pair = reference.network("gpt2")
    window = pair.model_config.context_length
    prompt, choice = [3] * (window - 3), [4, 5, 6, 7]
    found = choices.score_all(pair.model, pair.variables, None, [prompt], [[choice, [5]]], 1)[0]
    assert abs(found[0] - expected(pair.torch, prompt, choice, False)) < 1e-4
    with pytest.raises(UserError, match="input 1 has .* over this model's context length"):
        choices.score_all(pair.model, pair.variables, None, [[3, *prompt]], [[choice]], 1)


@pytest.mark.parametrize(
    ("prompt", "own", "message"),
    [([], [[3]], "input 1 has no tokens"), ([3], [], "no choices"), ([3], [[]], "without tokens"), ([3], [[99]], "99")],
)
def test_what_cannot_be_scored_is_said(prompt, own, message):
    pair = reference.network("llama")
    with pytest.raises(UserError, match=message):
        choices.score_all(pair.model, pair.variables, None, [prompt], [own], 1)


def test_normalisations():
    sums = np.array([-6.0, -4.0])
    assert choices.normalised(sums, [3, 1], [6, 1]).tolist() == [-6, -4]
    assert choices.normalised(sums, [3, 1], [6, 1], "token").tolist() == [-2, -4]
    assert choices.normalised(sums, [3, 1], [6, 1], "byte").tolist() == [-1, -4]
