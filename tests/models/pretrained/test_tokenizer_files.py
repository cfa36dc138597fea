"""The key of a directory's tokenizer: every file it may be read from changes it; and no code in the directory runs."""

import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

from prefix_jax.errors import UserError
from prefix_jax.models.pretrained import hub, tokenizers

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def directories(tiny_models, tmp_path_factory) -> dict[str, Path]:
    """Tokenizers of several families as transformers saves them, with files of older forms beside them."""
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {family: folder / family for family in tiny_models}
    for family, path in found.items():
        shutil.copytree(tiny_models[family], path)
    vocabulary = {letter: i for i, letter in enumerate(["<s>", "</s>", "<unk>", *"abcdefgh ", "ab", "Ġ"])}
    old = found["gpt2-old"] = folder / "gpt2-old"
    old.mkdir()
    (old / "config.json").write_text('{"model_type": "gpt2"}')
    (old / "vocab.json").write_text(json.dumps(vocabulary))
    (old / "merges.txt").write_text("#version: 0.2\na b\n")
    (old / "special_tokens_map.json").write_text('{"eos_token": "</s>", "unk_token": "<unk>"}')
    (old / "added_tokens.json").write_text('{"<sep>": 14}')
    (old / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    chat = found["chat"] = folder / "chat"
    shutil.copytree(tiny_models["llama"], chat)
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat)
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    tokenizer.save_pretrained(chat)
    return found


def tokenizer_names() -> list[str]:
    """Returns the names of every file that a class of transformers reads a tokenizer from."""
    from transformers.utils import hub as theirs

    base = transformers.tokenization_utils_base
    names = {base.SPECIAL_TOKENS_MAP_FILE, base.ADDED_TOKENS_FILE, base.TOKENIZER_CONFIG_FILE, base.FULL_TOKENIZER_FILE}
    names |= {
        theirs.CHAT_TEMPLATE_FILE,
        f"{theirs.CHAT_TEMPLATE_DIR}/tools.jinja",
        "config.json",
        "tokenizer.4.0.0.json",
    }
    names |= {"chat_template.json", "tekken.json", "tokenizer.model.v3", "cl100k_base.tiktoken", "source.spm"}
    # In their source: many classes cannot be imported without packages of their own.
    for source in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        names |= set(re.findall(r'"\w*file": "([\w.-]+\.\w+)"', source.read_text(encoding="utf-8")))
    return sorted(names)


def test_a_change_of_any_file_that_transformers_saved_changes_the_key(directories, tmp_path):
    touched = set()
    for family, folder in directories.items():
        copy = tmp_path / family
        shutil.copytree(folder, copy)
        before = tokenizers.files_key(copy)
        for file in sorted(path for path in copy.rglob("*") if path.is_file()):
            whole = file.read_bytes()
            for other in (whole + b" ", whole[:-1]):
                file.write_bytes(other)
                changed = tokenizers.files_key(copy) != before
                expected = file.suffix != ".safetensors" and file.name != "generation_config.json"
                assert changed == expected, (family, file.name)
            file.unlink()
            assert (tokenizers.files_key(copy) != before) == expected, (family, file.name)
            file.write_bytes(whole)
            touched.add(file.name)
        assert tokenizers.files_key(copy) == before == tokenizers.files_key(folder)
    assert touched > {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja"}
    assert touched > {"special_tokens_map.json", "added_tokens.json", "tools.jinja"}


def test_every_name_that_transformers_knows_belongs_to_the_key(tmp_path):
    names = tokenizer_names()
    assert {"merges.txt", "spiece.model", "vocab.txt", "sentencepiece.bpe.model", "bpe.codes", "emoji.json"} < set(
        names
    )
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for name in names:
        before = tokenizers.files_key(tmp_path)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{ }")
        assert tokenizers.files_key(tmp_path) != before, name


def test_every_name_that_transformers_knows_is_downloaded_from_the_hub():
    names = [name for name in tokenizer_names() if "/" not in name]  # folders hold templates, which change no ids
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in hub._SMALL)] == []


def test_files_that_the_configuration_names_belong_to_the_key(tmp_path):
    other = tmp_path / "elsewhere" / "words"
    other.parent.mkdir()
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for value in (str(other), "sub/words.bin", ["sub/words.bin"]):
        (folder / "tokenizer_config.json").write_text(json.dumps({"vocab_file": value, "eos_token": None, "n": 3}))
        for file in (other, folder / "sub/words.bin"):
            file.write_text("one")
        before = tokenizers.files_key(folder)
        (other if isinstance(value, str) and value == str(other) else folder / "sub/words.bin").write_text("two")
        assert tokenizers.files_key(folder) != before, value


@pytest.mark.parametrize("package", ["tokenizers", "transformers", "sentencepiece"])
def test_a_package_of_another_version_changes_the_key(package, monkeypatch):
    versions = tokenizers.metadata.version
    before = tokenizers.readers()
    monkeypatch.setattr(tokenizers.metadata, "version", lambda name: "0" if name == package else versions(name))
    assert tokenizers.readers() != before
    cached = tokenizers.Cached("x", "0" * 64, lambda: pytest.fail("made"))
    other = cached.key()
    monkeypatch.undo()
    assert cached.key() != other


@pytest.mark.parametrize("config", [None, {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}])
@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["odd.Odd", None]}, ["odd.Odd", None]])
def test_code_in_a_models_folder_is_neither_asked_about_nor_run(directories, tmp_path, monkeypatch, auto_map, config):
    folder = tmp_path / "model"
    shutil.copytree(directories["llama"], folder)
    if config is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text(json.dumps(config))
    about = {"tokenizer_class": "Odd", "auto_map": auto_map}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    ran = tmp_path / "ran"
    (folder / "odd.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Odd: pass\nclass OddConfig: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(UserError, match=r"is code \(auto_map .*never run") as error:
        tokenizers.from_directory(folder)
    assert "\n" not in str(error.value) and not ran.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"), ("tokenizer.json", "["), ("tokenizer.json", '{"version": "1.0", "model": 3}'),
        ("tokenizer_config.json", "3"), ("tokenizer_config.json", '{"auto_map": 3}'),
        ("tokenizer_config.json", '{"tokenizer_class": 3}'), ("tokenizer_config.json", "\udcff"),
    ],
)  # fmt: skip
def test_a_broken_tokenizer_is_one_sentence(directories, tmp_path, name, content):
    folder = tmp_path / "model"
    shutil.copytree(directories["llama"], folder)
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="no tokenizer that can be read") as error:
        tokenizers.from_directory(folder)
    assert "\n" not in str(error.value)
    tokenizers.files_key(folder)
