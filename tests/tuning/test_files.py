"""What is saved after tuning: whole or not at all, and refused for any other model."""

import dataclasses
import errno
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from prefix_jax import disk
from prefix_jax.errors import UserError
from prefix_jax.models.families.bart import BartConfig
from prefix_jax.models.families.gpt2 import GPT2Config
from prefix_jax.models.families.llama import LlamaConfig
from prefix_jax.models.families.t5 import T5Config
from prefix_jax.models.prefix import Prefix, PrefixKV
from prefix_jax.tuning import store
from prefix_jax.tuning.tuned_state import TunedState

COMMON = dict(vocab_size=50, layers=3, d_model=12, heads=4, norm_epsilon=1e-6, tie_embeddings=True)
IDS = dict(eos_id=1, bos_id=None, pad_id=0)
T5 = T5Config(
    **{**COMMON, **IDS}, kv_heads=4, head_dim=5, d_ff=16, encoder_depth=2, gated=True, activation="gelu", buckets=8,
    max_distance=16, decoder_start_id=0, scale_outputs=False,
)  # fmt: skip
LLAMA = LlamaConfig(
    **{**COMMON, **IDS}, kv_heads=2, head_dim=6, d_ff=16, max_positions=64, rope_base=1e4, qkv_bias=False,
    rope_scaling=("llama3", 8.0, 1.0, 4.0, 32.0), sliding_window=None,
)  # fmt: skip
GPT2 = GPT2Config(**{**COMMON, **IDS}, kv_heads=4, head_dim=3, d_ff=16, max_positions=32)
BART = BartConfig(
    **{**COMMON, **IDS}, kv_heads=4, head_dim=3, d_ff=16, encoder_depth=2, encoder_d_ff=16, activation="gelu",
    max_positions=32, decoder_start_id=1, scale_embeddings=False,
)  # fmt: skip
IDENTITY = {"source": "hub", "name": "some/t5", "revision": "abc", "spec": "11", "weights": "22"}


def save(folder, prefix, identity, model_config, extra=None):
    store.save(folder, TunedState(prefix), identity, model_config, extra)


def load(folder, *model):
    """Returns the prefix in a folder, and what its JSON says."""
    kept, meta = store.load(folder, *model)
    assert not kept.collections
    return kept.prefix, meta


def make(model_config, length=4, layers=None, bias=False, offset=None, seed=0):
    """A random prefix at all sites of a spec; `layers` names those of a site that carry one."""
    generator = np.random.default_rng(seed)
    sites = {}
    for name in model_config.sites:
        chosen = (layers or {}).get(name)
        shape = (
            model_config.site_layers(name) if chosen is None else len(chosen),
            model_config.kv_heads,
            length,
            model_config.head_dim,
        )
        key, value = (jnp.asarray(generator.standard_normal(shape, np.float32)) for _ in range(2))
        slot_bias = jnp.where(jnp.arange(length) < 1, -jnp.inf, jnp.zeros(shape[:3])) if bias else None
        sites[name] = PrefixKV(key, value, slot_bias, layers=chosen)
    return Prefix(**sites, position_offset=length if offset is None else offset)


def assert_equal(a, b):
    """Bit for bit, with the layers and the offset."""
    assert int(a.position_offset) == int(b.position_offset)
    for name in ("decoder", "encoder", "cross"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None)
        if left is not None:
            assert left.layers == right.layers
            for part in ("key", "value", "bias"):
                np.testing.assert_array_equal(getattr(left, part), getattr(right, part))


@pytest.mark.parametrize("model_config", [T5, LLAMA, GPT2], ids=["t5", "llama", "gpt2"])
@pytest.mark.parametrize("variant", [{}, {"bias": True}, {"offset": 0}])
def test_round_trip_is_bit_exact(tmp_path, model_config, variant):
    prefix = make(model_config, **variant)
    save(tmp_path / "tuned", prefix, IDENTITY, model_config, {"config": {"method": "prefix"}})
    for folder in (tmp_path, tmp_path / "tuned"):
        again, meta = load(folder, model_config, IDENTITY)
        assert_equal(prefix, again)
    assert meta["config"] == {"method": "prefix"} and meta["model"] == IDENTITY and meta["length"] == 4
    assert store.model_config_of(meta) == model_config


def test_the_files_are_what_the_format_says(tmp_path):
    """Read here with the safetensors package, not with what wrote them."""
    prefix = make(T5, layers={"decoder": (0, 2)})
    save(tmp_path, prefix, IDENTITY, T5)
    tensors = load_file(tmp_path / "prefix.safetensors")
    assert {name: t.shape for name, t in tensors.items()} == {
        f"{site}.{part}": (2, 4, 4, 5) for site in ("decoder", "encoder") for part in ("key", "value")
    } | {f"cross.{part}": (3, 4, 4, 5) for part in ("key", "value")}
    assert all(t.dtype == np.float32 for t in tensors.values())
    np.testing.assert_array_equal(tensors["cross.value"], prefix.cross.value)
    meta = json.loads((tmp_path / "prefix.json").read_text())
    assert meta["layers"] == {"encoder": None, "decoder": [0, 2], "cross": None}
    assert (meta["format"], meta["method"], meta["library"]) == (1, "prefix", "prefix_jax")


def test_bfloat16_numbers_are_saved_as_float32(tmp_path):
    prefix = make(GPT2)
    half = prefix.replace(decoder=prefix.decoder.replace(key=prefix.decoder.key.astype(jnp.bfloat16)))
    save(tmp_path, half, IDENTITY, GPT2)
    again, _ = load(tmp_path)
    assert again.decoder.key.dtype == np.float32
    np.testing.assert_array_equal(again.decoder.key, np.asarray(half.decoder.key, np.float32))


@pytest.mark.parametrize(
    "other, words",
    [
        (dataclasses.replace(T5, layers=4), ["layers=3", "layers=4"]),
        (dataclasses.replace(T5, head_dim=6), ["head_dim=5", "head_dim=6"]),
        (LLAMA, ["some/t5", "'t5'", "'llama'"]),
    ],
)
def test_another_shape_is_refused(tmp_path, other, words):
    save(tmp_path, make(T5), IDENTITY, T5)
    with pytest.raises(UserError) as caught:
        load(tmp_path, other)
    assert all(word in str(caught.value) for word in [*words, "use the model it was made for"])


def test_other_token_ids_do_not_matter(tmp_path):
    save(tmp_path, make(T5), IDENTITY, T5)
    load(tmp_path, dataclasses.replace(T5, eos_id=7, pad_id=3))


def test_another_model_is_refused(tmp_path):
    """Of the same shapes, but with other weights; the same weights from elsewhere are the same model."""
    save(tmp_path, make(T5), IDENTITY, T5)
    with pytest.raises(UserError) as caught:
        load(tmp_path, T5, {**IDENTITY, "name": "other", "weights": "33"})
    assert all(word in str(caught.value) for word in ("some/t5", "other", str(tmp_path), "config.model.source"))
    load(tmp_path, T5, {**IDENTITY, "name": "/elsewhere", "source": "directory"})


def test_a_prefix_that_does_not_fit_is_not_saved(tmp_path):
    with pytest.raises(UserError, match="KV heads"):
        save(tmp_path / "tuned", make(LLAMA), IDENTITY, GPT2)
    assert not (tmp_path / "tuned").exists()


def _truncate(folder):
    path = folder / "prefix.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


def _change(folder, **changes):
    meta = json.loads((folder / "prefix.json").read_text())
    (folder / "prefix.json").write_text(json.dumps({**meta, **changes}))


def _drop_site(folder):
    _change(folder, sites=["decoder", "cross"])


@pytest.mark.parametrize(
    "damage, words",
    [
        (_truncate, "truncated"),
        (lambda f: (f / "prefix.safetensors").unlink(), "is missing beside prefix.json"),
        (lambda f: (f / "prefix.json").unlink(), "has no tuned prefix"),
        (lambda f: (f / "prefix.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "prefix.json").write_bytes(b"\xff\xfe"), "cannot be read as JSON"),
        (lambda f: (f / "prefix.json").write_text("[]"), "is not of format 1"),
        (lambda f: (f / "prefix.json").write_text('{"format": 1, "method": "prefix"}'), "no model"),
        (_drop_site, 'no keys and values of the site "cross"'),
        (lambda f: _change(f, layers={"decoder": [0, 1]}), "has 3 decoder layers"),
        (lambda f: _change(f, position_offset="four"), "position_offset"),
    ],
)
def test_damage_is_one_sentence(tmp_path, damage, words):
    save(tmp_path, make(GPT2), IDENTITY, GPT2)
    damage(tmp_path)
    with pytest.raises(UserError, match=words):
        load(tmp_path)


def test_a_pair_that_a_kill_left_mixed_is_refused(tmp_path):
    """The two files are replaced one after the other."""
    for seed in (0, 1):
        save(tmp_path / str(seed), make(GPT2, seed=seed), IDENTITY, GPT2)
    os.replace(tmp_path / "1" / "prefix.safetensors", tmp_path / "0" / "prefix.safetensors")
    with pytest.raises(UserError, match="is not the one that prefix.json beside it describes"):
        load(tmp_path / "0")


def test_collections_without_the_hash_of_their_tensors_are_refused(tmp_path):
    store.save(tmp_path, TunedState(None, {"lora": {"a": jnp.ones(3)}}), IDENTITY, GPT2, {"method": "lora"})
    path = tmp_path / "collections.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"}))
    with pytest.raises(UserError, match="no sha256"):
        store.load(tmp_path)


def test_no_such_directory(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "absent")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    first = make(GPT2)
    save(tmp_path, first, IDENTITY, GPT2)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 2:  # the first of the two files is whole by then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left on device"):
        save(tmp_path, make(GPT2, seed=1), IDENTITY, GPT2)
    assert len(calls) == 2
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert_equal(load(tmp_path, GPT2)[0], first)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_device_that_is_full(tmp_path, monkeypatch):
    """A real ENOSPC, from writing to a device that is always full."""
    plain = os.open
    full = lambda path, *options: plain("/dev/full" if str(path).startswith(str(tmp_path)) else path, *options[:1])
    monkeypatch.setattr(disk.os, "open", lambda path, flags, *mode: full(path, flags & ~(os.O_CREAT | os.O_EXCL)))
    with pytest.raises(UserError, match="no space left"):
        save(tmp_path, make(GPT2), IDENTITY, GPT2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "tuned").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        save(tmp_path / "tuned", make(GPT2), IDENTITY, GPT2)
