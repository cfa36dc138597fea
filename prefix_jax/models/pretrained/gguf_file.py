"""Reader of GGUF, llama.cpp's format: converts metadata and tensor names to Hugging Face's.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefix_jax.errors import UserError, did_you_mean, first_line
from prefix_jax.models import families
from prefix_jax.models.families.family import Gguf
from prefix_jax.models.leaves import Leaf, merge, shifted, split, transpose
from prefix_jax.models.pretrained import gguf_header

# The tensors of factors of scaled rotary frequencies.
_FACTORS = ("rope_freqs", "rope_factors_short", "rope_factors_long")
# A tensor of a layer, of an encoder or a decoder where there are both.
_BLOCK = re.compile(r"(?P<side>enc\.|dec\.)?blk\.(?P<block>\d+)\.(?P<part>.+)")
# The weights that go before a GGUF file in the same folder.
_OTHER_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# NAME-00001-of-00003.gguf, as llama.cpp's gguf-split names the parts.
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def find(path: Path) -> Path | None:
    """Returns the GGUF file that a path names: the file itself, or the only one in a folder without other weights.

    Raises:
      UserError: the folder holds several models.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" else None
    if not path.is_dir() or any(found for name in _OTHER_WEIGHTS for found in path.glob(name)):
        return None
    files = sorted(path.glob("*.gguf"))
    firsts = [file for file in files if not (part := _PART.fullmatch(file.name)) or int(part[2]) == 1]
    if len(firsts) > 1:
        names = ", ".join(file.name for file in firsts)
        raise UserError(f"{path} holds {len(firsts)} GGUF files ({names}); name one of them as --config.model.source")
    return (firsts or files or [None])[0]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """Returns the configuration in Hugging Face's form, and float32 leaves by Hugging Face's names.

    Tensors are dequantised row by row, when they are read. The other parts of a split model are read beside the first.

    Raises:
      UserError: the file is damaged, a part is missing, or the architecture is not supported.
    """
    with _damage(path):
        return _read(path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Leaf]]:
    readers = [_reader(part) for part in _parts(path)]
    tensors = {tensor.name: _leaf(tensor) for reader in readers for tensor in reader.tensors}
    factors = {name: tensors.pop(f"{name}.weight").all() for name in _FACTORS if f"{name}.weight" in tensors}
    stored, config = _config(readers[0].fields, tensors)
    _scale_rotary(config, factors)
    config["tie_word_embeddings"] = "output.weight" not in tensors
    names = {name: _hf_name(name, stored) for name in tensors}
    return config, {theirs: _as_stored_by_hf(theirs, tensors[ours], stored, config) for ours, theirs in names.items()}


def _scale_rotary(config: dict[str, Any], factors: dict[str, np.ndarray]) -> None:
    """Puts the factors by which a file divides rotary frequencies into its configuration, as those of "longrope".

    Llama 3's scaling is stored as such factors ("rope_freqs"), Phi-3's as two sets of them.
    """
    short = factors.get("rope_freqs", factors.get("rope_factors_short"))
    if short is None or ("rope_freqs" in factors and np.all(short == 1)):
        return
    if config.get("rope_scaling"):
        raise UserError(
            "the GGUF file has both factors and another scaling of rotary frequencies; use its safetensors form"
        )
    long = factors.get("rope_factors_long", short)
    scaling = {"rope_type": "longrope", "short_factor": short.tolist(), "long_factor": long.tolist()}
    amplitude = 1.0 if "rope_freqs" in factors else config.get("attention_factor")
    config["rope_scaling"] = {**scaling, "attention_factor": amplitude}


def _parts(path: Path) -> list[Path]:
    found = _PART.fullmatch(path.name)
    if found is None:
        return [path]
    name, count = found[1], int(found[3])
    parts = [path.with_name(f"{name}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    if absent := [part.name for part in parts if not part.is_file()]:
        raise UserError(f"{path} is one of {count} parts, and {absent[0]} is missing beside it; download it too")
    return parts


def _reader(path: Path) -> Any:
    import gguf

    with _damage(path):
        gguf_header.check(path)
        return gguf.GGUFReader(path)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Converts what numbers and values of other types raise into a sentence."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} is not a whole GGUF file ({first_line(error)}); download it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({os.strerror(error.errno or errno.EIO).lower()})") from None


def _as_stored_by_hf(name: str, leaf: Leaf, stored: Gguf, config: dict[str, Any]) -> Leaf:
    if stored.norm_offset and name.endswith("norm.weight"):
        leaf = shifted(leaf, -stored.norm_offset)
    leaf = stored.restored(name, leaf, config)
    return _rotate_halves(name, leaf, config) if stored.permuted else leaf


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE vocabulary.

    Attributes:
      tokens: in the order of their ids.
      merges: pairs, the first merged first.
      special: the tokens that text cannot spell.
      roles: "bos", "eos", "unk", "pad" to their tokens, where the file names them.
      words: the rule that cuts text into words (`tokenizer.ggml.pre`), or the empty string.
      chat_template: Jinja, or `None`.
      begins: whether a text begins with the `bos` token.
    """

    tokens: list[str]
    merges: list[tuple[str, str]]
    special: list[str]
    roles: dict[str, str]
    words: str
    chat_template: str | None
    begins: bool


def vocabulary(path: Path) -> Vocabulary:
    """Returns the byte-level BPE inside a GGUF file (`tokenizer.ggml.model` "gpt2").

    Raises:
      UserError: the file has another kind of tokenizer.
    """
    with _damage(path):
        return _vocabulary(path, _reader(path).fields)


def _vocabulary(path: Path, fields: Mapping[str, Any]) -> Vocabulary:
    def get(key: str) -> Any:
        return fields[f"tokenizer.{key}"].contents() if f"tokenizer.{key}" in fields else None

    if get("ggml.model") != "gpt2":
        raise UserError(
            f'the tokenizer in {path} is a "{get("ggml.model")}", not a byte-level BPE; copy the model\'s '
            "tokenizer.json beside it"
        )
    tokens = get("ggml.tokens")
    # gguf.TokenType: 3 control.
    special = [token for token, kind in zip(tokens, get("ggml.token_type"), strict=True) if kind == 3]
    ids = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    roles = {role: get(f"ggml.{name}_token_id") for role, name in ids.items()}
    return Vocabulary(
        tokens=tokens,
        merges=[tuple(line.split(" ")) for line in get("ggml.merges")],
        special=special,
        roles={role: tokens[i] for role, i in roles.items() if i is not None},
        words=get("ggml.pre") or "",
        chat_template=get("chat_template"),
        begins=bool(get("ggml.add_bos_token")) and roles["bos"] is not None,
    )


def _config(fields: dict[str, Any], tensors: Mapping[str, Leaf]) -> tuple[Gguf, dict[str, Any]]:
    """Returns how the file's architecture is stored, and its configuration."""

    def whole(key: str, default: Any = None) -> Any:
        value = fields[key].contents() if key in fields else default
        # Stored as float32: 1e-5 reads as 9.999999747378752e-06.
        return float(str(np.float32(value))) if isinstance(value, float) else value

    known = {name: stored for family in families.FAMILIES.values() for name, stored in family.gguf.items()}
    architecture = whole("general.architecture", "")
    if architecture not in known:
        raise UserError(
            f'a GGUF of architecture "{architecture}" is not supported{did_you_mean(architecture, tuple(known))}'
        )

    def get(key: str, default: Any = None) -> Any:
        return whole(f"{architecture}.{key}", default)

    stored = known[architecture]
    stored = stored.variant(tensors) if stored.variant else stored
    heads, width = get("attention.head_count"), get("embedding_length")
    config = {
        "model_type": stored.model_type,
        "hidden_act": "silu",
        "vocab_size": tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else None,
        "num_hidden_layers": get("block_count"),
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": get("attention.key_length", width // heads),
        "intermediate_size": get("feed_forward_length"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": get("context_length"),
        "rope_theta": get("rope.freq_base", 10000.0),
        "bos_token_id": whole("tokenizer.ggml.bos_token_id"),
        "eos_token_id": whole("tokenizer.ggml.eos_token_id"),
        "pad_token_id": whole("tokenizer.ggml.padding_token_id"),
        **stored.options(get),
        **_biases(tensors),
    }
    kind = get("rope.scaling.type", "none")
    if kind == "linear":
        config.setdefault("rope_scaling", {"rope_type": "linear", "factor": get("rope.scaling.factor", 1.0)})
    if kind != "none" and "rope_scaling" not in config:
        raise UserError(
            f"a GGUF {architecture} with scaled rotary positions is not supported; use its safetensors form"
        )
    return stored, config


def _biases(tensors: Mapping[str, Leaf]) -> dict[str, bool]:
    """Returns the options of a `config.json` for the biases that the file has."""
    options = {"blk.0.attn_q.bias": ("attention_bias", "use_qkv_bias"), "blk.0.ffn_up.bias": ("mlp_bias", "use_bias")}
    return {option: True for name, found in options.items() if name in tensors for option in found}


def _leaf(tensor: Any) -> Leaf:
    from gguf.quants import dequantize

    def read(index: tuple[slice, ...]) -> np.ndarray:
        # Blocks lie along the last axis: rows are sliced before dequantisation, columns after it.
        values = dequantize(tensor.data[index[:-1]] if len(index) > 1 else tensor.data, tensor.tensor_type)
        return values[(slice(None),) * (len(index) - 1) + index[-1:]]

    return Leaf(tuple(int(n) for n in reversed(tensor.shape)), np.dtype(np.float32), read)


def _hf_name(name: str, stored: Gguf) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in stored.top:
        return f"{stored.top[stem]}.{kind}"
    found = _BLOCK.fullmatch(stem)
    theirs = stored.tensors.get((found["side"] or "") + found["part"]) if found else None
    if found is None or theirs is None:
        raise UserError(f'the GGUF tensor "{name}" belongs to no model that is supported; use its safetensors form')
    whole = theirs if "{}" in theirs else f"{stored.layers}.{{}}.{theirs}"
    return f"{whole.format(found['block'])}.{kind}"


def _rotate_halves(name: str, leaf: Leaf, config: dict[str, Any]) -> Leaf:
    """Undoes llama.cpp's row order of queries and keys (interleaved pairs; Hugging Face separates the halves).

    Inverts `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if heads is None:
        return leaf
    n, rank = config[heads], len(leaf.shape)
    pairs = split(leaf, 0, (n, leaf.shape[0] // n // 2, 2))
    return merge(transpose(pairs, (0, 2, 1, *range(3, rank + 2))), 0, 3)
