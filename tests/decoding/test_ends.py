"""What a target format ends a text in ends it in decoding."""

import dataclasses

import jax
import numpy as np
import pytest

from prefix_jax import inference
from prefix_jax.decoding import GenerationConfig, decode_all
from prefix_jax.training import session
from tests import tiny
from tests.decoding import reference

STRATEGIES = [dict(strategy="greedy"), dict(strategy="beam", beams=2), dict(strategy="sample", top_k=1)]


@pytest.fixture(scope="module")
def pair():
    return reference.network("gpt2")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_ends_are_as_if_the_model_named_them(pair, strategy):
    """`transformers` takes a list of ends; here some of it comes with the options."""
    prompts = reference.prompts(6, 5)
    options = GenerationConfig(max_length=8, min_length=3, **strategy)
    plain = decode_all(pair.model, pair.variables, None, prompts, options, 6)
    end = max(range(2, 61), key=lambda token: sum(token in row[3:] for row in plain))
    both = pair.model.clone(model_config=dataclasses.replace(pair.model_config, more_eos_ids=(end,)))
    named = decode_all(both, pair.variables, None, prompts, options, 6)
    assert named != plain
    given = decode_all(pair.model, pair.variables, None, prompts, dataclasses.replace(options, more_ends=(end,)), 6)
    assert given == named
    assert all(len(row) >= 3 for row in given)


@pytest.mark.parametrize(
    ("target_format", "ends", "text"),
    [
        ("", (), "a b ## c"),
        ("{target}{bos}", (2,), "a b ## c"),
        ("{target}<s>\n", (2,), "a b ## c"),
        ("{target} ##", (), "a b"),
        ("{target} c{eos}", (), "a b ##"),
    ],
)
def test_a_session_prints_what_its_format_puts_before_an_end(target_format, ends, text, tiny_models, tmp_path):
    config = tiny.configuration(tiny_models["llama"], tmp_path)
    config.data.target_format = target_format
    opened = session.open_session(config)
    assert opened.more_ends == ends
    assert opened.printer.texts([opened.tokenizer("a b ## c")["input_ids"]]) == [text]


def test_all_ends_banned_is_said(tiny_models, tmp_path, capsys):
    config = tiny.configuration(tiny_models["llama"], tmp_path)
    config.decoding.update(strategy="greedy", max_length=3, banned_tokens=(1,))
    inference.write_texts(session.open_session(config), None, ["a"], progress=False)
    assert "banned_tokens has every token that ends a text (1)" in capsys.readouterr().err


def test_weights_that_are_not_finite_end_decoding_with_an_error(pair):
    from prefix_jax.decoding import NotFinite

    table = pair.variables["params"]["embedding"]["tokens"]
    spoilt = jax.tree.map(lambda leaf: leaf, pair.variables)
    spoilt["params"]["embedding"] = {**spoilt["params"]["embedding"], "tokens": table.at[7].set(np.nan)}
    with pytest.raises(NotFinite, match="input 1 are not finite"):
        decode_all(pair.model, spoilt, None, [[3, 7], [4]], GenerationConfig(strategy="greedy", max_length=2), 2)


def test_a_source_beyond_an_encoders_window_is_cut_as_training_cuts_it(tiny_models, tmp_path, capsys):
    config = tiny.configuration(tiny_models["bart"], tmp_path)
    config.decoding.update(strategy="greedy", max_length=2)
    opened = session.open_session(config)
    inference.write_texts(opened, None, ["name " * 200], progress=False)
    assert f"1 of 1 sources are cut to {opened.limits.source} tokens" in capsys.readouterr().err
