"""Code in files of others: no reader runs it, imports it, or asks whether it may."""

import hashlib
import io
import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from prefix_jax.convert import convert
from prefix_jax.data import array_cache
from prefix_jax.errors import UserError
from prefix_jax.models import pretrained
from prefix_jax.models.pretrained import torch_file, wheels
from prefix_jax.training import session
from tests import tiny

RAN: list[str] = []


def ran(*_) -> tuple:
    """What the pickles below call."""
    RAN.append("code")
    return ()


class Code:
    def __reduce__(self):
        return ran, ()


def short(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


HERE = "tests.faults.test_foreign_code"
CALLED = HERE.encode() + b"\nran\n"
ENTRY = b"\x80\x04}" + short("x")
# Programs of pickle that call, build or look up what is not theirs, each by another operation.
PROGRAMS = {
    "reduce": pickle.dumps({"x": Code()}, 2),
    "stack global": ENTRY + short(HERE) + short("ran") + b"\x93)Rs.",
    "instance": b"(i" + HERE.encode() + b"\nran\n.",
    "object": b"(c" + HERE.encode() + b"\nran\no.",
    "new object": b"\x80\x02c" + HERE.encode() + b"\nran\n)\x81.",
    "in an allowed call": b"\x80\x02ccollections\nOrderedDict\n(c" + HERE.encode() + b"\nran\n)RtR.",
    "an attribute of what is allowed": ENTRY + short("collections") + short("OrderedDict.fromkeys") + b"\x93)Rs.",
    "a module of torch": ENTRY + short("torch._utils") + short("_rebuild_tensor_v2.__call__.__globals__") + b"\x93s.",
    "a state of an allowed class": b"\x80\x02ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypec"
    + HERE.encode()
    + b"\nran\nsb.",
    "an extension": b"\x80\x02\x82\x01)R.",
    "a persistent id": pickle.dumps(("storage", Code(), "0", "cpu", 1), 2)[:-1] + b"Q.",
}


def archive(program: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/data/0", b"\0" * 64)
    return out.getvalue()


def _model(folder: Path, models: dict[str, Path], content: bytes) -> None:
    shutil.copy(models["gpt2"] / "config.json", folder)
    (folder / "pytorch_model.bin").write_bytes(content)
    pretrained.load(str(folder))


def _shards(folder: Path, models: dict[str, Path], content: bytes) -> None:
    shutil.copy(models["gpt2"] / "config.json", folder)
    (folder / "part.bin").write_bytes(content)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "part.bin"}}))
    pretrained.load(str(folder))


def _adapter(name: str, config: dict):
    def read(folder: Path, models: dict[str, Path], content: bytes) -> None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / name).write_bytes(content)
        convert(str(folder), "prefix_jax", str(folder / "out"), model=str(models["gpt2"]))

    return read


def _original(folder: Path, models: dict[str, Path], content: bytes) -> None:
    (folder / "prefix.bin").write_bytes(content)
    convert(str(folder), "prefix_jax", str(folder / "out"), model=str(models["gpt2"]))


SHAPE = {"num_attention_heads": 4, "num_layers": 2, "num_virtual_tokens": 1, "token_dim": 32}
READERS = {
    "a model": _model,
    "a model in shards": _shards,
    "PEFT's prefix": _adapter("adapter_model.bin", {"peft_type": "PREFIX_TUNING", **SHAPE}),
    "PEFT's LoRA": _adapter("adapter_model.bin", {"peft_type": "LORA", "r": 1, "lora_alpha": 1}),
    "PEFT's prompt": _adapter("adapter_model.bin", {"peft_type": "PROMPT_TUNING", **SHAPE}),
    "adapters": _adapter("pytorch_adapter.bin", {"config": {"architecture": "prefix_tuning", "prefix_length": 1}}),
    "the original code": _original,
}


def test_the_programs_run_code_in_pickle_itself():
    RAN.clear()
    for name in ("reduce", "stack global", "instance", "object", "in an allowed call"):
        pickle.loads(PROGRAMS[name])
    assert len(RAN) == 5


@pytest.mark.parametrize("reader", READERS)
def test_no_pickle_runs(reader, tiny_models, tmp_path):
    for number, program in enumerate(PROGRAMS.values()):
        RAN.clear()
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(UserError):
            READERS[reader](folder, tiny_models, archive(program))
        assert not RAN


def test_an_old_file_of_torch_is_not_unpickled_either(tiny_models, tmp_path):
    """Torch before 1.6 wrote pickles one after the other, without an archive."""
    for number, program in enumerate(PROGRAMS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(UserError):
            _model(folder, tiny_models, pickle.dumps(0x1950A86A20F9469CFC6C, 2) + program)
    assert not RAN


def test_arrays_in_the_cache_are_not_unpickled(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([Code()], object))
    depends = {"a": 1}
    array_cache.kept(tmp_path, depends, lambda: {"x": np.ones(2)})
    (path,) = tmp_path.glob("*.npz")
    data = buffer.getvalue()[:-2] + (32).to_bytes(2, "little")
    path.write_bytes(data + array_cache.checksums.of_bytes(data).encode())
    RAN.clear()
    found = array_cache.kept(tmp_path, depends, lambda: {"x": np.ones(2)})
    assert found["x"].tolist() == [1, 1] and not RAN


def test_a_member_larger_than_its_file_is_not_unpacked(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * (64 << 20))
    (tmp_path / "x.bin").write_bytes(out.getvalue())
    with pytest.raises(UserError, match=r"data.pkl is larger than the file"):
        torch_file.read(tmp_path / "x.bin")


@pytest.mark.parametrize("number", [b"r\xff\xff\xff\x7f", b"p2147483647\n"])
def test_a_memo_longer_than_its_pickle_is_refused(number, tmp_path):
    (tmp_path / "x.bin").write_bytes(archive(b"\x80\x02}" + number + b"."))
    with pytest.raises(UserError, match="its memo is longer than it"):
        torch_file.read(tmp_path / "x.bin")


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_models_own_code_is_neither_run_nor_asked_about(place, tiny_models, tmp_path, monkeypatch):
    """Its folder has a module, which everything names."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["gpt2"], folder)
    file = folder / place
    about = json.loads(file.read_text()) if file.exists() else {}
    kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
    about |= {"auto_map": {kind: "odd.Odd" for kind in kinds}, "custom_generate": "odd", "tokenizer_class": "Odd"}
    file.write_text(json.dumps(about))
    mark = tmp_path / "ran"
    (folder / "odd.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Odd: pass\n")
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "odd.py", folder / "custom_generate" / "generate.py")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    try:
        opened = session.open_session(tiny.configuration(folder, tmp_path))
        opened.tokenizer("a word")
    except UserError as error:
        assert place == "tokenizer_config.json" and "never run" in str(error)
    assert not mark.exists() and "odd" not in sys.modules


def test_names_in_archives_are_no_places(tmp_path, monkeypatch):
    """A member is read under a name of ours, whatever it is called."""
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "a" / "b" / "cache"))
    names = ("../evil", "/evil", "x/../../../evil", "archive/../../evil.pkl")
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "evil")
    wheel = wheels.Wheel("evil", "1", hashlib.sha256(path.read_bytes()).hexdigest(), 1)
    for name in names:
        made = wheels.extract(wheel, name, path)
        assert made.read_text() == "evil" and tmp_path / "a" / "b" / "cache" in made.resolve().parents
    (tmp_path / "x.bin").write_bytes(path.read_bytes())
    with pytest.raises(UserError):
        torch_file.read(tmp_path / "x.bin")
    assert {file.name for file in tmp_path.iterdir()} == {"a", "x.whl", "x.bin"} and not Path("/evil").exists()
