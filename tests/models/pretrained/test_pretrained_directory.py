"""Checkpoint directories that transformers and torch wrote: every number arrives in its place."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import pretrained
from tests.models.pretrained import hf
from tests.models.pretrained.unfuse import unfuse

torch = pytest.importorskip("torch")

TIED = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def assert_same(model, params) -> None:
    """Every tensor of the torch state dict, bit for bit, and none beside."""
    found = unfuse(model.config.model_type, jax.tree.map(np.asarray, params))
    expected = model.state_dict()
    tied = {n for n in TIED if n in expected and n not in found}
    assert set(found) == set(expected) - tied
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name].numpy(), err_msg=name)
    if not model.config.tie_word_embeddings:
        assert "lm_head.weight" in found


@pytest.mark.parametrize("shape", hf.SHAPES)
def test_parity_safetensors(shape, tmp_path):
    model = hf.random_model(shape)
    hf.save(model, tmp_path, "safetensors")
    loaded = pretrained.load(str(tmp_path))
    assert_same(model, loaded.params)
    assert loaded.config["model_type"] == model.config.model_type
    assert loaded.identity["source"] == "directory"


@pytest.mark.parametrize("form", ["sharded", "bin", "sharded-bin"])
@pytest.mark.parametrize("shape", ["gpt2", "llama-grouped", "t5-gated"])
def test_parity_other_forms(shape, form, tmp_path):
    model = hf.random_model(shape)
    hf.save(model, tmp_path, form)
    assert len(list(tmp_path.glob("*-of-*"))) >= (2 if "sharded" in form else 0)
    loaded = pretrained.load(str(tmp_path))
    assert_same(model, loaded.params)


def test_names_of_a_bare_model(tmp_path):
    """`AutoModel` saves without the prefix that its heads give the names."""
    model = hf.random_model("gpt2")
    model.transformer.save_pretrained(tmp_path)
    assert_same(model, pretrained.load(str(tmp_path)).params)


def test_half_precision_on_disk_and_in_memory(tmp_path):
    model = hf.random_model("llama-grouped").to(torch.bfloat16)
    hf.save(model, tmp_path, "safetensors")
    exact = pretrained.load(str(tmp_path)).params
    assert_same(model.float(), exact)
    half = pretrained.load(str(tmp_path), "bfloat16").params
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16))


def test_rounds_to_half_as_torch(tmp_path):
    model = hf.random_model("t5")
    hf.save(model, tmp_path, "bin")
    half = pretrained.load(str(tmp_path), jnp.bfloat16).params
    tokens = model.to(torch.bfloat16).float().state_dict()["shared.weight"].numpy()
    np.testing.assert_array_equal(np.asarray(half["embedding"]["tokens"], np.float32), tokens)


def test_writing_to_the_directory_later_changes_nothing(tmp_path):
    """The CPU backend may use mapped memory in place; a user's file is copied."""
    hf.save(hf.random_model("t5-gated"), tmp_path, "safetensors")
    params = pretrained.load(str(tmp_path)).params
    before = jax.tree.map(np.array, params)
    file = tmp_path / "model.safetensors"
    size = file.stat().st_size
    with open(file, "r+b") as stream:
        stream.write(b"\0" * size)
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_identity_is_of_the_weights_not_of_their_form(tmp_path):
    model, other = hf.random_model("gpt2"), hf.random_model("gpt2", seed=1)
    for form in ("safetensors", "sharded", "bin"):
        (tmp_path / form).mkdir()
        hf.save(model, tmp_path / form, form)
    hf.save(other, tmp_path / "other", "safetensors")
    first, *same = (pretrained.load(str(tmp_path / f)).identity for f in ("safetensors", "sharded", "bin"))
    for identity in same:
        assert pretrained.same_model(first, identity)
        pretrained.check_same_model(first, identity)
    changed = pretrained.load(str(tmp_path / "other")).identity
    assert not pretrained.same_model(first, changed)
    with pytest.raises(UserError, match="the same shapes but other weights"):
        pretrained.check_same_model(first, changed)
    json.dumps(first)


def test_one_changed_layer_is_another_model(tmp_path):
    model = hf.random_model("llama-grouped")
    hf.save(model, tmp_path / "a", "safetensors")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.add_(1e-3)
    hf.save(model, tmp_path / "b", "safetensors")
    a, b = (pretrained.load(str(tmp_path / n)).identity for n in "ab")
    assert not pretrained.same_model(a, b)
