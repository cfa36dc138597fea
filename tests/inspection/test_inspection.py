"""Looking inside, against transformers' own attention and against numbers that can be worked out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax import inference, inspection
from prefix_jax.config import default_config
from prefix_jax.data.records import pair
from prefix_jax.errors import UserError
from prefix_jax.inspection.measure import _by_place
from prefix_jax.inspection.observe import each_alone
from prefix_jax.models.prefix import Prefix, PrefixKV
from prefix_jax.models.pretrained import load
from prefix_jax.training import session
from prefix_jax.tuning import TunedState
from tests import runs, tiny

RECORDS = [pair(row["source"], row["target"], None, str(i), 0) for i, row in enumerate(tiny.rows(3))]


def opened(source, **options):
    config = default_config()
    config.model.source = str(source)
    config.update_from_flattened_dict(options)
    return session.open_session(config)


def prefix(model_config, length: int = 3, layers=None, scale: float = 1.0) -> Prefix:
    draw = np.random.default_rng(0)
    sites = {}
    for site in model_config.sites:
        count = model_config.site_layers(site) if layers is None else len(layers)
        key, value = scale * draw.standard_normal(
            (2, count, model_config.kv_heads, length, model_config.head_dim)
        ).astype(np.float32)
        sites[site] = PrefixKV(jnp.asarray(key), jnp.asarray(value), layers=layers)
    return Prefix(**sites, position_offset=jnp.int32(0))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_attention_is_what_transformers_returns(family, tiny_models):
    """Without a prefix: every site, layer, head, query and key."""
    import torch
    import transformers

    here = opened(tiny_models[family])
    found = inspection.attention(here, None, RECORDS[0].source, RECORDS[0].target)
    kind = (
        transformers.AutoModelForSeq2SeqLM
        if here.model_config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    network = kind.from_pretrained(tiny_models[family], attn_implementation="eager").eval()
    (batch,) = each_alone(here, None, RECORDS[:1])

    def ids(tokens, segments):
        return torch.tensor(np.asarray(tokens)[np.asarray(segments) > 0][None]).long()

    own = ids(batch.tokens, batch.segment_ids)
    with torch.no_grad():
        if here.model_config.is_encoder_decoder:
            encoder = ids(batch.encoder_tokens, batch.encoder_segment_ids)
            out = network(input_ids=encoder, decoder_input_ids=own, output_attentions=True)
            expected = {
                "encoder": out.encoder_attentions, "decoder": out.decoder_attentions, "cross": out.cross_attentions,
            }  # fmt: skip
        else:
            expected = {"decoder": network(input_ids=own, output_attentions=True).attentions}
    assert found.keys() == expected.keys()
    for site, layers in expected.items():
        np.testing.assert_allclose(found[site].weights, np.stack([layer[0].numpy() for layer in layers]), atol=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_shares_are_those_of_the_matrix(family, tiny_models):
    here = opened(tiny_models[family])
    kept = TunedState(prefix(here.model_config))
    matrix = inspection.attention(here, kept, RECORDS[0].source, RECORDS[0].target)
    found = inspection.measure(here, kept, RECORDS[:1])
    assert found.prefix_share.keys() == set(here.model_config.sites)
    for site, one in matrix.items():
        assert one.slots == 3 and one.weights.shape[2:] == (len(one.queries), len(one.keys))
        np.testing.assert_allclose(one.weights.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(found.prefix_share[site], one.weights[..., :3].sum(-1).mean(-1), atol=1e-6)
        np.testing.assert_allclose(found.prefix_share[site], one.prefix_share(), atol=1e-6)
    assert found.change > 0 and found.tokens > 5


def test_keys_of_zero_get_the_share_that_counting_gives(tiny_models):
    """Zero keys for the prefix and queries of zero: every key gets the same."""
    here = opened(tiny_models["gpt2"])
    params = jax.tree.map(lambda leaf: leaf, here.base["params"])
    qkv = params["layers"]["attention"]["qkv"]
    params["layers"]["attention"]["qkv"] = jax.tree.map(jnp.zeros_like, qkv)
    here.base["params"] = params
    found = inspection.measure(here, TunedState(prefix(here.model_config, scale=0.0)), RECORDS[:1])
    length = inspection.attention(here, None, RECORDS[0].source, RECORDS[0].target)["decoder"].weights.shape[-1]
    expected = np.mean([3 / (3 + seen) for seen in range(1, length + 1)])
    np.testing.assert_allclose(found.prefix_share["decoder"], expected, rtol=1e-5)


def test_layers_without_a_prefix_give_it_nothing(tiny_models):
    here = opened(tiny_models["llama"])
    found = inspection.measure(here, TunedState(prefix(here.model_config, layers=(1,))), RECORDS[:2])
    assert (found.prefix_share["decoder"][0] == 0).all() and (found.prefix_share["decoder"][1] > 0).all()


def test_nothing_kept_changes_nothing(tiny_models):
    found = inspection.measure(opened(tiny_models["t5"]), TunedState(), RECORDS[:2])
    assert found.change == pytest.approx(0, abs=1e-6) and found.changed_words == 0 and not found.prefix_share


def test_nearest_words_of_a_prompt_are_its_own(tiny_models):
    here = opened(tiny_models["llama"])
    rows = load(str(tiny_models["llama"])).params["embedding"]["tokens"][jnp.array([50, 90])]
    found = inspection.nearest_words(here, TunedState(None, {"prompt": {"embeddings": 3.0 * rows}}), count=2)
    assert [words[0] for words in found] == [here.tokenizer.decode([n]) for n in (50, 90)]
    with pytest.raises(UserError, match="nearest words are for prompts"):
        inspection.nearest_words(here, TunedState())


def test_distances(tiny_models):
    model_config = opened(tiny_models["llama"]).model_config
    one, twice = prefix(model_config), prefix(model_config, scale=2.0)
    for kind, same in inspection.distances(one, one)["decoder"].items():
        np.testing.assert_allclose(same.relative, 0, err_msg=kind)
        np.testing.assert_allclose([same.cosine, same.nearest], 1, rtol=1e-6)
    for scaled in inspection.distances(one, twice)["decoder"].values():
        np.testing.assert_allclose(scaled.relative, 2 / 3, rtol=1e-6)
        np.testing.assert_allclose(scaled.cosine, 1, rtol=1e-6)
    with pytest.raises(UserError, match="differ in the shape"):
        inspection.distances(one, prefix(model_config, length=4))


def test_distances_tell_keys_from_values_and_layers_and_the_order_of_slots():
    draw = np.random.default_rng(1)
    key, value = draw.standard_normal((2, 2, 1, 3, 4)).astype(np.float32)
    turned = np.stack([key[0], -key[1]])
    one = Prefix(decoder=PrefixKV(jnp.asarray(key), jnp.asarray(value)))
    found = inspection.distances(one, Prefix(decoder=PrefixKV(jnp.asarray(turned), jnp.asarray(value[..., ::-1, :]))))
    np.testing.assert_allclose(found["decoder"]["key"].cosine, [1, -1], rtol=1e-6)
    np.testing.assert_allclose(found["decoder"]["key"].relative, [0, 2], rtol=1e-6)
    np.testing.assert_allclose(found["decoder"]["value"].nearest, 1, rtol=1e-6)
    a, b = value[0].ravel(), value[0, :, ::-1].ravel()
    angle = a @ b / np.sqrt((a @ a) * (b @ b))
    np.testing.assert_allclose(found["decoder"]["value"].cosine[0], angle, rtol=1e-5)
    assert angle < 0.9


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attention_with_a_prefix_is_what_transformers_gives_past_key_values(family, tiny_models):
    import torch
    import transformers

    here = opened(tiny_models[family])
    made = prefix(here.model_config)
    made = made.replace(position_offset=jnp.int32(3))
    found = inspection.attention(here, TunedState(made), RECORDS[0].source, RECORDS[0].target)["decoder"]
    (batch,) = each_alone(here, None, RECORDS[:1])
    ids = torch.tensor(np.asarray(batch.tokens)[np.asarray(batch.segment_ids) > 0][None]).long()
    cache = transformers.DynamicCache()
    for layer, (key, value) in enumerate(zip(np.array(made.decoder.key), np.array(made.decoder.value), strict=True)):
        cache.update(torch.tensor(key[None]), torch.tensor(value[None]), layer)
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_models[family], attn_implementation="eager").eval()
    with torch.no_grad():
        layers = network(input_ids=ids, past_key_values=cache, output_attentions=True).attentions
    np.testing.assert_allclose(found.weights, np.stack([layer[0].numpy() for layer in layers]), atol=1e-5)
    words = [here.tokenizer.decode([token]).strip() or token for token in ids[0].tolist()]
    assert found.keys[:3] == ("slot 0", "slot 1", "slot 2") and list(found.keys[3:]) == list(found.queries)
    assert [w for w in words if isinstance(w, str)] == [
        q for q, w in zip(found.queries, words, strict=True) if isinstance(w, str)
    ]


def test_a_text_of_the_models_own_and_the_places_of_a_prompt(tiny_models):
    here = opened(tiny_models["t5"], **{"decoding.strategy": "greedy", "decoding.max_length": 6})
    prompt = 0.1 * np.random.default_rng(0).standard_normal((2, here.model_config.d_model)).astype(np.float32)
    kept = TunedState(None, {"prompt": {"embeddings": jnp.asarray(prompt)}})
    found = inspection.attention(here, kept, RECORDS[0].source)
    (written,) = inference.write_texts(here, kept, [RECORDS[0].source], progress=False)
    again = inspection.attention(here, kept, RECORDS[0].source, written)
    np.testing.assert_array_equal(found["cross"].weights, again["cross"].weights)
    assert found["encoder"].keys[:2] == found["cross"].keys[:2] == ("prompt 0", "prompt 1")
    assert found["encoder"].slots == 0 and len(found["decoder"].queries) > 1
    assert not any(word.startswith("prompt ") for word in found["decoder"].keys)


def test_next_words_are_those_of_whole_softmaxes(tiny_models):
    """The divergence by its definition, from logits with and without the prefix; its mean is what `measure` says."""
    here = opened(tiny_models["llama"])
    kept = TunedState(prefix(here.model_config))
    places = inspection.next_words(here, kept, RECORDS[0].source, RECORDS[0].target)
    found = inspection.measure(here, kept, RECORDS[:1])
    assert len(places) == found.tokens
    np.testing.assert_allclose([place.change for place in places], found.change_by_place, rtol=1e-5)
    assert found.change == pytest.approx(np.mean(found.change_by_place), rel=1e-5)
    (batch,) = each_alone(here, None, RECORDS[:1])
    column = int(batch.target_positions[0, 0])
    tokens = np.asarray(batch.tokens)[:, : column + 1]
    p, q = (
        np.asarray(jax.nn.softmax(here.model.apply(here.base, tokens, prefix=one)[0, -1]))
        for one in (kept.prefix, None)
    )
    assert places[0].change == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-3)
    assert places[0].tuned[0] == (here.tokenizer.decode([p.argmax()]), pytest.approx(p.max(), rel=1e-4))
    assert places[0].bare[0] == (here.tokenizer.decode([q.argmax()]), pytest.approx(q.max(), rel=1e-4))


def test_changes_by_place_are_over_the_records_that_reach_it():
    found = _by_place([np.array([1.0, 2.0, 8.0]), np.array([3.0]), np.array([2.0, 4.0])])
    np.testing.assert_allclose(found, [2, 3])


def test_the_command_line_writes_and_shows(tiny_models, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["llama"], steps=4)
    run = tmp_path / "run"
    runs.run("train", "--config", str(recipe), "--workdir", str(run), cache=tmp_path / "cache")
    out, _ = runs.run("inspect", "--workdir", str(run), "--limit", "4", cache=tmp_path / "cache")
    assert "nats" in out and "head 3" in out
    found = json.loads((run / "inspection.json").read_text())
    assert np.array(found["prefix_share"]["decoder"]).shape == (2, 4)
    page = (run / "report.html").read_text()
    assert "Looking inside" in page and "slots, with" in page and "The next word at each of" in page
    assert "distance" not in found
    out, _ = runs.run("inspect", "--workdir", str(run), "--against", str(run), "--limit", "4", cache=tmp_path / "cache")
    assert "cosine to the nearest slot" in out
    found = json.loads((run / "inspection.json").read_text())
    np.testing.assert_allclose(found["distance"]["decoder"]["key"]["cosine"], 1, rtol=1e-4)
    np.testing.assert_allclose(found["distance"]["decoder"]["value"]["relative"], 0, atol=1e-4)
    assert "Relative distance to the prefix of run, decoder" in (run / "report.html").read_text()
    _, err = runs.run("inspect", "--workdir", str(tmp_path / "no"), cache=tmp_path / "cache", code=2)
    assert "does not exist" in err
