"""LoRA merged for inference: the same logits and text as beside the weights, and nothing else changed."""

import jax
import numpy as np
import pytest

from prefix_jax import inference
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.training import session
from prefix_jax.tuning import TunedState
from tests import runs, tiny

SOURCES = [row["source"] for row in tiny.rows(3)]


def tuned(source, method: str, **options) -> inference.Tuned:
    """A session with what a method would keep after some training, as it were: nothing is zero."""
    config = default_config()
    config.method = method
    config.model.source = str(source)
    config.decoding.update(strategy="greedy", max_length=6)
    config.update_from_flattened_dict(options)
    opened = session.open_session(config)
    made = opened.method
    draw = np.random.default_rng(0)
    start = made.init(jax.random.key(0), opened.base)
    moved = jax.tree.map(lambda x: x + 0.3 * draw.standard_normal(x.shape).astype(np.float32), start)
    return inference.Tuned(opened, made.export(moved, opened.base, None), None)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_merged_and_beside_the_weights_agree(family, tiny_models):
    beside = tuned(tiny_models[family], "lora", **{"lora.targets": "all", "lora.rank": 2})
    before = jax.tree.map(np.asarray, beside.session.base)
    merged = inference.with_merged_lora(beside)
    assert merged.kept.count() == 0 and merged.session.base.keys() == {"params"}
    tokens = np.array([[5, 9, 12, 30, 7]])
    more = {"encoder_tokens": tokens + 3} if beside.session.model_config.is_encoder_decoder else {}

    def logits(found: inference.Tuned):
        variables = found.kept.onto(found.session.base)
        return np.asarray(found.session.model.apply(variables, tokens, **more, prefix=found.kept.prefix))

    np.testing.assert_allclose(logits(merged), logits(beside), atol=3e-4)
    bare = inference.Tuned(beside.session, TunedState(), None)
    assert np.abs(logits(bare) - logits(beside)).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, before, beside.session.base)


def test_a_prefix_beside_lora_stays(tiny_models):
    options = {"prefix.length": 3, "prefix.hidden": 8, "lora.rank": 2}
    both = tuned(tiny_models["llama"], "prefix+lora", **options)
    merged = inference.with_merged_lora(both)
    assert merged.kept.prefix is both.kept.prefix
    texts = [inference.write_texts(one.session, one.kept, SOURCES, progress=False) for one in (both, merged)]
    assert texts[0] == texts[1]


def test_what_cannot_be_merged_is_refused(tiny_models):
    with pytest.raises(UserError, match="holds no LoRA"):
        inference.with_merged_lora(tuned(tiny_models["llama"], "prefix", **{"prefix.length": 2, "prefix.hidden": 8}))
    with pytest.raises(UserError, match="fine-tuned weights"):
        inference.with_merged_lora(tuned(tiny_models["llama"], "lora+finetune", **{"finetune.layers": 1}))
    with pytest.raises(UserError, match="weights of 8 bits"):
        inference.with_merged_lora(tuned(tiny_models["llama"], "lora", **{"model.quantisation": "int8"}))


@pytest.mark.slow
def test_the_command_line_merges(tiny_models, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["gpt2"], steps=4)
    run, cache = str(tmp_path / "run"), tmp_path / "cache"
    runs.run("train", "--config", str(recipe), "--config.method=lora", "--workdir", run, cache=cache)
    words = ("--workdir", run, "--input", SOURCES[0])
    texts = [runs.run("generate", *words, *more, cache=cache)[0] for more in ((), ("--merge",))]
    assert texts[0] == texts[1] and texts[0].strip()
    _, err = runs.run("generate", *words, "--merge", "--bare", cache=cache, code=2)
    assert "give one of them" in err
