"""Reader of GGUF, llama.cpp's format: converts metadata and tensor names to Hugging Face's.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models import families
from prefix_jax.models.families.family import Gguf
from prefix_jax.models.leaves import Leaf, merge, shifted, split, transpose

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """Returns the configuration in Hugging Face's form, and float32 leaves by Hugging Face's names.

    Tensors are dequantised row by row as they are read.

    Raises:
      UserError: the file is damaged, or its architecture is not supported.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error}); download it again") from None
    stored, config = _config(reader.fields)
    tensors = {tensor.name: _leaf(tensor) for tensor in reader.tensors}
    config["tie_word_embeddings"] = "output.weight" not in tensors
    # Rotary frequencies are derived from the configuration.
    names = {name: _hf_name(name, stored) for name in tensors if not name.startswith("rope_freqs")}
    return config, {theirs: _as_stored_by_hf(theirs, tensors[ours], stored, config) for ours, theirs in names.items()}


def _as_stored_by_hf(name: str, leaf: Leaf, stored: Gguf, config: dict[str, Any]) -> Leaf:
    if stored.norm_offset and name.endswith("norm.weight"):
        leaf = shifted(leaf, -stored.norm_offset)
    return _rotate_halves(name, leaf, config) if stored.permuted else leaf


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE vocabulary.

    Attributes:
      tokens: tokens in the order of their ids.
      merges: token pairs in order of priority.
      special: tokens that cannot be spelled as text.
      roles: tokens for "bos", "eos", "unk" and "pad", if the file names them.
      words: pre-tokenisation rule (`tokenizer.ggml.pre`), or the empty string.
      chat_template: Jinja template, or `None`.
    """

    tokens: list[str]
    merges: list[tuple[str, str]]
    special: list[str]
    roles: dict[str, str]
    words: str
    chat_template: str | None


def vocabulary(path: Path) -> Vocabulary:
    """Returns the tokenizer inside a GGUF file.

    Raises:
      UserError: it is not a byte-level BPE (`tokenizer.ggml.model` "gpt2").
    """
    import gguf

    fields = gguf.GGUFReader(path).fields

    def get(key: str) -> Any:
        return fields[f"tokenizer.{key}"].contents() if f"tokenizer.{key}" in fields else None

    if get("ggml.model") != "gpt2":
        raise UserError(
            f'the tokenizer in {path} is a "{get("ggml.model")}", not a byte-level BPE; use its tokenizer.json'
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
    )


def _config(fields: dict[str, Any]) -> tuple[Gguf, dict[str, Any]]:
    """Returns the GGUF description of the file's architecture, and the configuration."""

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

    stored, heads, width = known[architecture], get("attention.head_count"), get("embedding_length")
    config = {
        "model_type": stored.model_type,
        "hidden_act": "silu",
        "vocab_size": len(fields["tokenizer.ggml.tokens"].data),
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
    }
    scaled = get("rope.scaling.type", "none") != "none" and "rope_scaling" not in config
    if scaled or "rope_freqs.weight" in fields:
        raise UserError(
            f"a GGUF {architecture} with scaled rotary positions is not supported; use its safetensors form"
        )
    return stored, config


def _leaf(tensor: Any) -> Leaf:
    from gguf.quants import dequantize

    def read(index: tuple[slice, ...]) -> np.ndarray:
        # Blocks lie along the last axis: rows are sliced before dequantisation, columns after it.
        values = dequantize(tensor.data[index[:-1]] if len(index) > 1 else tensor.data, tensor.tensor_type)
        return values[(slice(None),) * (len(index) - 1) + index[-1:]]

    return Leaf(tuple(int(n) for n in reversed(tensor.shape)), np.dtype(np.float32), read)


def _hf_name(name: str, stored: Gguf) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    block, _, part = stem.removeprefix("blk.").partition(".")
    if not stem.startswith("blk.") or part not in stored.tensors:
        raise UserError(f'the GGUF tensor "{name}" belongs to no model that is supported; use its safetensors form')
    return f"model.layers.{block}.{stored.tensors[part]}.{kind}"


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
