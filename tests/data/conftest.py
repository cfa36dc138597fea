"""Real tokenizers, built here from a few words, so that the tests download nothing."""

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prefix_jax import tasks

WORDS = [text for record in tasks.inputs("lighthouse", "validation") for text in (record.source, record.target)]


@pytest.fixture(scope="session")
def bytes_tokenizer():
    """Byte-level BPE with one token for both ends, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(WORDS, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


@pytest.fixture(scope="session")
def pieces_tokenizer():
    """Unigram pieces that end in </s>, as T5's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(WORDS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of the published data sets: $PREFIX_JAX_DATA, or ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("PREFIX_JAX_DATA") or beside)
    if not (root / "e2e" / "src1_train.txt").exists():
        pytest.skip("needs the published data sets: set PREFIX_JAX_DATA to their directory")
    return root


@pytest.fixture
def data_home(real_data, monkeypatch) -> Path:
    monkeypatch.setenv("PREFIX_JAX_DATA", str(real_data))
    return real_data
