"""Whatever is wrong with a checkpoint is said in one sentence."""

import errno
import itertools
import json
import pickle
import zipfile

import numpy as np
import pytest

from prefix_jax import cache
from prefix_jax.errors import UserError
from prefix_jax.models import FAMILIES, from_hf, pretrained
from prefix_jax.models.leaves import from_array
from prefix_jax.models.pretrained import safetensors_file, torch_file, wheels
from tests.models.pretrained import hf

torch = pytest.importorskip("torch")


@pytest.fixture
def checkpoint(tmp_path):
    hf.save(hf.random_model("gpt2"), tmp_path, "safetensors")
    return tmp_path


def error(source) -> str:
    with pytest.raises(UserError) as caught:
        pretrained.load(str(source))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("keep", [0, 5, 300, -10])
def test_truncated_safetensors(checkpoint, keep):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "model.safetensors" in error(checkpoint)
    assert "download it again" in error(checkpoint)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"not json",
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
        b'{"x": 3}',
    ],
)
def test_damaged_safetensors_header(tmp_path, header):
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(UserError, match="not a whole safetensors file"):
        safetensors_file.read(file)


def test_no_config(checkpoint):
    (checkpoint / "config.json").unlink()
    assert "config.json does not exist" in error(checkpoint)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_config_is_not_json(checkpoint, text):
    (checkpoint / "config.json").write_text(text)
    assert "config.json" in error(checkpoint)


def test_config_without_a_number(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    del config["n_embd"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert "n_embd" in error(checkpoint)


WRONG_TYPES = ("x", None, [], {}, 1.5, -1, 0, True, "3", [1], 1e30, float("nan"))


@pytest.mark.parametrize("kind", sorted(kind for family in FAMILIES.values() for kind in family.readers))
def test_options_of_wrong_types_are_one_sentence(kind):
    """Each option that transformers writes for a family, with each wrong value in turn."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind).to_dict()
    from_hf(config)
    for name, value in itertools.product(config, WRONG_TYPES):
        try:
            found = from_hf({**config, name: value}, "the config.json of x")
        except UserError as caught:
            assert "\n" not in str(caught), (name, value)
        else:
            sizes = [getattr(found, field) for field in ("layers", "d_model", "heads", "vocab_size")]
            assert all(type(size) is int and size > 0 for size in sizes), (name, value)


def test_config_of_other_shapes(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"vocab_size": 102}))
    assert "(101, 24)" in error(checkpoint)


def test_unsupported_architecture(checkpoint):
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "bert"}))
    message = error(checkpoint)
    assert "bert" in message
    assert all(name in message for name in ("gpt2", "llama", "t5"))


def test_no_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert "model.safetensors or pytorch_model.bin" in error(checkpoint)


def test_missing_and_unexpected_tensor(checkpoint):
    table, _ = safetensors_file.read(checkpoint / "model.safetensors")
    name = "transformer.h.1.mlp.c_fc.bias"
    arrays = {n: from_array(np.array(leaf.all())) for n, leaf in table.items()}
    safetensors_file.write(checkpoint / "model.safetensors", {n: a for n, a in arrays.items() if n != name}, {})
    assert "h.1.mlp.c_fc.bias" in error(checkpoint)
    safetensors_file.write(checkpoint / "model.safetensors", arrays | {"transformer.h.0.gate": arrays[name]}, {})
    assert "h.0.gate" in error(checkpoint)


def test_missing_shard(tmp_path):
    hf.save(hf.random_model("gpt2"), tmp_path, "sharded")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    name = sorted(set(index["weight_map"].values()))[1]
    (tmp_path / name).rename(tmp_path / "elsewhere")
    assert name in error(tmp_path)
    index["weight_map"]["x"] = "../../secret"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "weight_map" in error(tmp_path)


@pytest.mark.parametrize("source", ["/no/such/place", "./nowhere", "a/b/c"])
def test_absent_directory(source):
    assert f"the directory {source} does not exist" in error(source)


def test_a_file_is_no_directory(checkpoint):
    assert "name the directory" in error(checkpoint / "config.json")
    assert ".gguf" in error(checkpoint / "config.json")


@pytest.mark.parametrize(
    ("source", "meant"), [("flan-t5-smal", "flan-t5-small"), ("smolm2-135m", "smollm2-135m"), ("gpt-2", "gpt2")]
)
def test_mistyped_name(source, meant, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = error(source)
    assert f'did you mean "{meant}"?' in message
    assert source in message


def test_unreachable_hub_names_what_needs_none(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = error("gpt2-xl")
    assert "the hub cannot be reached" in message
    assert "flan-t5-small" in message
    assert "did you mean" not in message


def test_unknown_dtype(checkpoint):
    with pytest.raises(UserError, match=r'"bfloat17" is not a dtype.*did you mean "bfloat16"'):
        pretrained.load(str(checkpoint), "bfloat17")


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("echo evil > evil.txt",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": torch.zeros(2), "y": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="only tensors are read"):
        torch_file.read(tmp_path / "pytorch_model.bin")
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize(
    "name", ["functools.partial", "builtins.eval", "torch.load", "numpy.load", "torch._utils.__import__"]
)
def test_any_other_global_is_refused(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    program = f"c{module}\n{attribute}\n(tR.".encode()
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("x/data.pkl", program)
    with pytest.raises(UserError, match="only tensors are read"):
        torch_file.read(tmp_path / "x.bin")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    torch.save({"x": torch.arange(8.0)}, tmp_path / "good.bin")
    with zipfile.ZipFile(tmp_path / "good.bin") as source, zipfile.ZipFile(tmp_path / "bad.bin", "w") as out:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                assert data.count(b"K\x08") == 2  # the storage's length and the tensor's size
                at = data.rindex(b"K\x08")
                data = data[:at] + b"K\x7f" + data[at + 2 :]
            out.writestr(info.filename, data)
    with pytest.raises(UserError, match="beyond its storage"):
        torch_file.read(tmp_path / "bad.bin")


def test_strided_shared_and_scalar_tensors(tmp_path):
    x = torch.arange(24.0).reshape(4, 6)
    state = {
        "t": x.T,
        "part": x[1:3, ::2],
        "same": x,
        "half": x.bfloat16(),
        "one": x[3, 5],
        "none": x[:0],
        "i": x.long(),
    }
    torch.save(state, tmp_path / "x.bin")
    table = torch_file.read(tmp_path / "x.bin")
    assert set(table) == set(state)
    for name, value in state.items():
        found = table[name].all()
        assert found.shape == tuple(value.shape)
        np.testing.assert_array_equal(found.astype(np.float64), value.double().numpy(), err_msg=name)


def test_old_truncated_and_other_pickles(tmp_path):
    torch.save({"x": torch.zeros(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"x": torch.zeros(2000)}, tmp_path / "cut.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "cut.bin").read_bytes()[:2000])
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"x": 1}))
    torch.save(torch.zeros(2), tmp_path / "tensor.bin")
    for name in ("old", "cut", "plain", "tensor"):
        with pytest.raises(UserError, match=f"{name}.bin"):
            torch_file.read(tmp_path / f"{name}.bin")


def fake_pip(monkeypatch, wheel: bytes | None, log: list):
    def run(command, **_):
        log.append(command)
        directory = command[command.index("--dest") + 1]
        if wheel is not None:
            with open(f"{directory}/x-1-py3-none-any.whl", "wb") as file:
                file.write(wheel)
        code = 0 if wheel is not None else 1
        return wheels.subprocess.CompletedProcess(command, code, "", "ERROR: No matching distribution found for x==1")

    monkeypatch.setattr(wheels.subprocess, "run", run)


def test_a_wheel_with_another_hash_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path))
    log = []
    good = wheels.hashlib.sha256(b"good").hexdigest()
    wheel = wheels.Wheel("x", "1", good, 0.1)
    fake_pip(monkeypatch, b"bad", log)
    with pytest.raises(UserError, match=r"another x==1 than expected \(SHA-256 .*, so it is not used"):
        wheels.fetch(wheel)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    fake_pip(monkeypatch, b"good", log)
    path = wheels.fetch(wheel)
    assert path.read_bytes() == b"good"
    assert wheels.fetch(wheel) == path
    assert len(log) == 2
    # One that was damaged in the cache is brought again.
    path.write_bytes(b"rotten")
    assert wheels.fetch(wheel).read_bytes() == b"good"
    assert len(log) == 3


def test_a_wheel_that_pip_cannot_bring(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path))
    fake_pip(monkeypatch, None, [])
    with pytest.raises(UserError, match=r"pip could not download x==1 .No matching distribution found"):
        wheels.fetch(wheels.Wheel("x", "1", "0" * 64, 0.1))


def test_cache_places(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PREFIX_JAX_CACHE", raising=False)
    assert cache.cache_dir("a", "b") == tmp_path / "home/.cache/prefix_jax/a/b"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg/prefix_jax"
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "own"))
    assert cache.cache_dir("x").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write .*\$PREFIX_JAX_CACHE"):
        cache.cache_dir("x")


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors_file.write(path, {"a": from_array(np.ones(3, np.float32))}, {})
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    broken = from_array(np.ones(3, np.float32))
    broken = type(broken)(broken.shape, broken.dtype, full)
    with pytest.raises(UserError, match="no space left"):
        safetensors_file.write(path, {"a": broken}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_directory_in_the_cache_appears_whole(tmp_path):
    def fail(path):
        with cache.new_directory(path, (path / "a").is_file) as temporary:
            (temporary / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x").mkdir()
    (tmp_path / "x/b").write_text("left by a version that made something else")
    made = tmp_path / "x/a"
    for text in ("whole", "made again by a second process that began with the first"):
        with cache.new_directory(tmp_path / "x", made.is_file) as temporary:
            (temporary / "a").write_text(text)
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and [p.name for p in made.parent.iterdir()] == ["a"]
    assert made.read_text() == "whole"
