"""Looking inside, against transformers' own attention and against numbers that can be worked out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax import inspection
from prefix_jax.config import default_config
from prefix_jax.data.records import pair
from prefix_jax.errors import UserError
from prefix_jax.models.prefix import Prefix, Site
from prefix_jax.models.pretrained import load
from prefix_jax.training import session
from prefix_jax.tuning import Kept
from tests import runs, tiny

RECORDS = [pair(row["source"], row["target"], None, str(i), 0) for i, row in enumerate(tiny.rows(3))]


def opened(source, **options):
    config = default_config()
    config.model.source = str(source)
    config.update_from_flattened_dict(options)
    return session.open_session(config)


def prefix(spec, length: int = 3, layers=None, scale: float = 1.0) -> Prefix:
    draw = np.random.default_rng(0)
    sites = {}
    for site in spec.sites:
        count = spec.site_layers(site) if layers is None else len(layers)
        key, value = scale * draw.standard_normal((2, count, spec.kv_heads, length, spec.head_dim)).astype(np.float32)
        sites[site] = Site(jnp.asarray(key), jnp.asarray(value), layers=layers)
    return Prefix(**sites, position_offset=jnp.int32(0))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_attention_is_what_transformers_returns(family, tiny_models):
    """Without a prefix: every site, layer, head, query and key."""
    import torch
    import transformers

    here = opened(tiny_models[family])
    found = inspection.attention(here, None, RECORDS[0].source, RECORDS[0].target)
    kind = transformers.AutoModelForSeq2SeqLM if here.spec.encoder_layers else transformers.AutoModelForCausalLM
    network = kind.from_pretrained(tiny_models[family], attn_implementation="eager").eval()
    batch = inspection._batch(here, None, RECORDS[:1])

    def ids(tokens, segments):
        return torch.tensor(np.asarray(tokens)[np.asarray(segments) > 0][None]).long()

    own = ids(batch.tokens, batch.segment_ids)
    with torch.no_grad():
        if here.spec.encoder_layers:
            encoder = ids(batch.encoder_tokens, batch.encoder_segment_ids)
            out = network(input_ids=encoder, decoder_input_ids=own, output_attentions=True)
            expected = {
                "encoder": out.encoder_attentions, "decoder": out.decoder_attentions, "cross": out.cross_attentions,
            }  # fmt: skip
        else:
            expected = {"decoder": network(input_ids=own, output_attentions=True).attentions}
    assert found.keys() == expected.keys()
    for site, layers in expected.items():
        np.testing.assert_allclose(found[site], np.stack([layer[0].numpy() for layer in layers]), atol=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_shares_are_those_of_the_matrix(family, tiny_models):
    here = opened(tiny_models[family])
    kept = Kept(prefix(here.spec))
    matrix = inspection.attention(here, kept, RECORDS[0].source, RECORDS[0].target)
    found = inspection.measure(here, kept, RECORDS[:1])
    assert found.prefix_share.keys() == set(here.spec.sites)
    for site, weights in matrix.items():
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(found.prefix_share[site], weights[..., :3].sum(-1).mean(-1), atol=1e-6)
    assert found.change > 0 and found.tokens > 5


def test_keys_of_zero_get_the_share_that_counting_gives(tiny_models):
    """Zero keys for the prefix and queries of zero: every key gets the same."""
    here = opened(tiny_models["gpt2"])
    params = jax.tree.map(lambda leaf: leaf, here.base["params"])
    qkv = params["layers"]["attention"]["qkv"]
    params["layers"]["attention"]["qkv"] = jax.tree.map(jnp.zeros_like, qkv)
    here.base["params"] = params
    found = inspection.measure(here, Kept(prefix(here.spec, scale=0.0)), RECORDS[:1])
    length = inspection.attention(here, None, RECORDS[0].source, RECORDS[0].target)["decoder"].shape[-1]
    expected = np.mean([3 / (3 + seen) for seen in range(1, length + 1)])
    np.testing.assert_allclose(found.prefix_share["decoder"], expected, rtol=1e-5)


def test_layers_without_a_prefix_give_it_nothing(tiny_models):
    here = opened(tiny_models["llama"])
    found = inspection.measure(here, Kept(prefix(here.spec, layers=(1,))), RECORDS[:2])
    assert (found.prefix_share["decoder"][0] == 0).all() and (found.prefix_share["decoder"][1] > 0).all()


def test_nothing_kept_changes_nothing(tiny_models):
    found = inspection.measure(opened(tiny_models["t5"]), Kept(), RECORDS[:2])
    assert found.change == pytest.approx(0, abs=1e-6) and found.changed_words == 0 and not found.prefix_share


def test_nearest_words_of_a_prompt_are_its_own(tiny_models):
    here = opened(tiny_models["llama"])
    rows = load(str(tiny_models["llama"])).params["embedding"]["tokens"][jnp.array([50, 90])]
    found = inspection.nearest_words(here, Kept(None, {"prompt": {"embeddings": 3.0 * rows}}), count=2)
    assert [words[0] for words in found] == [here.tokenizer.decode([n]) for n in (50, 90)]
    with pytest.raises(UserError, match="nearest words are for prompts"):
        inspection.nearest_words(here, Kept())


def test_distances(tiny_models):
    spec = opened(tiny_models["llama"]).spec
    one, twice = prefix(spec), prefix(spec, scale=2.0)
    np.testing.assert_allclose(inspection.distances(one, one)["decoder"], 0)
    np.testing.assert_allclose(inspection.distances(one, twice)["decoder"], 2 / 3, rtol=1e-6)
    with pytest.raises(UserError, match="differ in the shape"):
        inspection.distances(one, prefix(spec, length=4))


def test_the_command_line_writes_and_shows(tiny_models, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["llama"], steps=4)
    run = tmp_path / "run"
    runs.run("train", "--config", str(recipe), "--workdir", str(run), cache=tmp_path / "cache")
    out, _ = runs.run("inspect", "--workdir", str(run), "--limit", "4", cache=tmp_path / "cache")
    assert "nats" in out and "head 3" in out
    found = json.loads((run / "inspection.json").read_text())
    assert np.array(found["prefix_share"]["decoder"]).shape == (2, 4)
    assert "Looking inside" in (run / "report.html").read_text()
    _, err = runs.run("inspect", "--workdir", str(tmp_path / "no"), cache=tmp_path / "cache", code=2)
    assert "does not exist" in err
