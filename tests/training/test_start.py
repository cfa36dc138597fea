"""What a first step waits for: a second start makes nothing again that the first has made."""

import json
import subprocess
import sys

import numpy as np
import pytest

from prefix_jax.data import packing, tokens
from prefix_jax.errors import UserError
from prefix_jax.models.pretrained import tokenizers
from prefix_jax.training import session
from prefix_jax.training.trainer import prepare
from tests import tiny


def test_a_second_start_loads_no_tokenizer_and_plans_nothing(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    first = prepare(session.open_session(config), tmp_path / "first", [])
    monkeypatch.setattr(tokenizers, "from_directory", lambda *_: pytest.fail("loaded a tokenizer"))
    monkeypatch.setattr(tokens, "tokenise", lambda *_: pytest.fail("tokenised again"))
    monkeypatch.setattr(packing, "plan_epoch", lambda *_: pytest.fail("planned again"))
    second = prepare(session.open_session(config), tmp_path / "second", [])
    for one, other in ((first.batches, second.batches), (first.validation, second.validation)):
        np.testing.assert_array_equal(one.batch_at(0).tokens, other.batch_at(0).tokens)


def test_a_second_start_says_again_what_the_first_found(tiny_models, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    config.data.update(max_source_length=6, target_format="{target}")
    prepare(session.open_session(config), tmp_path / "first", [])
    first = capsys.readouterr().err
    assert "train: 32 of 32 sources are cut to 6 tokens" in first and "nothing stops decoding" in first
    monkeypatch.setattr(tokenizers, "from_directory", lambda *_: pytest.fail("loaded a tokenizer"))
    prepare(session.open_session(config), tmp_path / "second", [])
    said = [line for line in first.split("\n") if " records of " not in line]  # what was read is said once a process
    assert capsys.readouterr().err.split("\n") == said
    found = json.loads((tmp_path / "second" / "config.json").read_text(encoding="utf-8"))["audit"]["train"]
    assert found["ends"]["closed"] is False and found["changed"] == {"count": 0} and len(found["said"]) == 2
    config.data.strict = "cut"
    with pytest.raises(UserError, match="sources are cut to 6 .*data.strict makes this an error"):
        prepare(session.open_session(config), tmp_path / "third", [])


def test_a_tokenizer_that_changed_is_noticed(tiny_models, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in tiny_models["gpt2"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    before = tokenizers.files_key(folder)
    assert before == tokenizers.files_key(tiny_models["gpt2"])
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert tokenizers.files_key(folder) == before
    file = folder / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace("the", "teh"), encoding="utf-8")
    assert tokenizers.files_key(folder) != before


def test_neither_transformers_nor_orbax_is_imported_before_it_is_needed():
    code = "import sys, prefix_jax.training.pipeline; print([n for n in ('transformers', 'orbax') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
