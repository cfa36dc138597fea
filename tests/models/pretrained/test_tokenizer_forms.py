"""Tokenizers in other files than tokenizer.json: ids as of the library that owns the form, or one sentence."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefix_jax.data.tokens import default_formats, tokenise_sources, tokenise_targets
from prefix_jax.errors import UserError
from prefix_jax.models.pretrained import tokenizers
from prefix_jax.training import session
from prefix_jax.training.trainer import prepare
from tests import tiny

pytest.importorskip("transformers")
TEXTS = ("name : Place 3 | food : Thai", "Place 4 serves French food .", "unheard-of  words, 17")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> dict[str, Path]:
    """SentencePiece models as T5 and as Llama have them."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    (folder / "texts").write_text("\n".join(tiny.texts()), encoding="utf-8")
    ids: dict[str, dict[str, Any]] = {
        "t5": dict(model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
        "llama": dict(
            model_type="bpe",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
        ),
    }
    for family, options in ids.items():
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "texts"), model_prefix=str(folder / family), vocab_size=340, hard_vocab_limit=False,
            minloglevel=2, **options,
        )  # fmt: skip
    return {family: folder / f"{family}.model" for family in ids}


def write(folder: Path, family: str, **about) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    if about:
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def own_ids(file: Path) -> list[list[int]]:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(file)).encode(list(TEXTS))


@pytest.mark.parametrize(
    ("family", "name", "about"),
    [
        ("t5", "spiece.model", {}),
        ("t5", "spiece.model", {"tokenizer_class": "T5Tokenizer"}),
        ("llama", "tokenizer.model", {"tokenizer_class": "LlamaTokenizer"}),
    ],
)
def test_a_sentencepiece_model_alone_gives_its_ids(family, name, about, pieces, tmp_path):
    folder = write(tmp_path / "model", family, **about)
    shutil.copy(pieces[family], folder / name)
    tokenizer = tokenizers.from_directory(folder)
    found = tokenizer(list(TEXTS), add_special_tokens=False)["input_ids"]
    assert found == own_ids(pieces[family])
    assert tokenizer.decode(found[0]) == TEXTS[0]


def test_a_sentencepiece_model_that_transformers_would_use_otherwise_is_refused(pieces, tmp_path):
    """Without tokenizer_config.json, transformers' Llama puts no space before a text."""
    folder = write(tmp_path / "model", "llama")
    shutil.copy(pieces["llama"], folder / "tokenizer.model")
    with pytest.raises(UserError, match=r"tokenizer_config\.json"):
        tokenizers.from_directory(folder)


@pytest.mark.parametrize("about", [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"chat_template": "{{ x }}"}])
def test_a_text_begins_once(about, pieces, tmp_path):
    folder = write(tmp_path / "model", "llama", tokenizer_class="LlamaTokenizer", bos_token="<s>", **about)
    shutil.copy(pieces["llama"], folder / "tokenizer.model")
    tokenizer = tokenizers.from_directory(folder)
    formats = default_formats(tokenizer, False)
    sources = tokenise_sources(TEXTS, tokenizer, formats.source, 64)
    targets = tokenise_targets(TEXTS, tokenizer, formats.target)
    begins = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    for i in range(len(TEXTS)):
        assert list(sources[i]).count(tokenizer.bos_token_id) == begins
        assert list(targets[i]).count(tokenizer.bos_token_id) == 0
        assert list(targets[i]).count(tokenizer.eos_token_id) == 1


def test_vocabulary_and_merges_give_the_ids_of_tokenizer_json(tmp_path):
    expected = tiny.tokenizer(tmp_path, tiny.texts())
    model = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    folder = write(tmp_path / "model", "gpt2", tokenizer_class="GPT2Tokenizer", eos_token="</s>", unk_token="</s>")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    found = tokenizers.from_directory(folder)
    assert found(list(TEXTS))["input_ids"] == expected(list(TEXTS))["input_ids"]
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.json without the merges\.txt"):
        tokenizers.from_directory(folder)


RANKS = "".join(f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256))


@pytest.mark.parametrize("name", ["qwen.tiktoken", "tokenizer.model"])
def test_a_vocabulary_of_tiktoken_is_one_sentence(name, tmp_path):
    folder = write(tmp_path / "model", "qwen2")
    (folder / name).write_text(RANKS)
    with pytest.raises(UserError, match=rf"{name} is a vocabulary of tiktoken") as error:
        tokenizers.from_directory(folder)
    assert "\n" not in str(error.value)


def test_a_tekken_vocabulary_names_the_package(tmp_path, monkeypatch):
    folder = write(tmp_path / "model", "mistral")
    (folder / "tekken.json").write_text("{}")
    monkeypatch.setattr(tokenizers, "_installed", lambda package: False)
    with pytest.raises(UserError, match="pip install mistral-common"):
        tokenizers.from_directory(folder)


def test_a_tokenizer_without_any_word_is_refused(tmp_path):
    folder = write(tmp_path / "model", "qwen2")
    (folder / "vocab.txt").write_text("a\n")
    with pytest.raises(UserError, match="no vocabulary"):
        tokenizers.from_directory(folder)


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_the_end_is_learned_whatever_pads(pad, tiny_models, tmp_path, monkeypatch):
    """Without a token for padding, or with the end in its place, nothing is added to the vocabulary."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_models["llama"], folder)
    for name, key in (("tokenizer_config.json", "pad_token"), ("config.json", "pad_token_id")):
        about = json.loads((folder / name).read_text(encoding="utf-8"))
        about[key] = None if pad is None else pad if key == "pad_token" else 1
        (folder / name).write_text(json.dumps(about), encoding="utf-8")
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = tiny.configuration(folder, tmp_path)
    config.training.update(steps=1, batch=4, tensorboard=False)
    opened = session.open_session(config)
    assert opened.tokenizer.pad_token == pad
    assert len(opened.tokenizer) == len(tiny.tokenizer(tmp_path / "run", tiny.texts()))
    batch = prepare(opened, tmp_path / "run", []).batches.batch_at(0)
    targets, weights = np.asarray(batch.targets), np.asarray(batch.weights)
    # The 4 records of the batch, one end each.
    assert weights[targets == 1].min() == 1 and (weights > 0).sum() > (targets == 1).sum() == 4
