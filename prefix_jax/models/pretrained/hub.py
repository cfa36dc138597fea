"""Downloads from the Hugging Face hub: configuration, weights and tokenizer of a model id."""

from pathlib import Path

from prefix_jax import hub
from prefix_jax.hub import Unavailable

_SMALL = [
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
]
_SMALL += ["added_tokens.json", "*.index.json", "chat_template*", "adapter_config.json"]
# Vocabulary files by the other names known to transformers.
_SMALL += [
    "*.tiktoken",
    "tekken.json",
    "*.tokenizer",
    "*_vocab.json",
    "bpe.codes",
    "dict.txt",
    "*.spm",
    "byte_maps.json",
]
_SMALL += ["emoji.json", "normalizer.json", "word_*.json"]
_SAFETENSORS = ["model.safetensors", "model-*-of-*.safetensors"]
_TORCH = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]


def snapshot(name: str) -> tuple[Path, str]:
    """Returns the directory and commit of a model, from the hub or, if it is unreachable, from its cache.

    Downloads only the needed files: safetensors if available, otherwise torch files.

    Args:
      name: OWNER/NAME, or OWNER/NAME@REVISION.

    Raises:
      UserError: the model or its revision is not there for this user, or the hub fails.
      Unavailable: the model does not exist, or the hub is unreachable and its cache has no copy.
    """
    others = ["*/*"]  # subdirectories hold other formats of the model (onnx/, gguf/)
    found = hub.find(name, _SMALL, others)
    found.fetch(_SAFETENSORS, others)
    if not any(found.path.glob("*.safetensors")):
        found.fetch(_TORCH, others)
    return found.path, found.commit


__all__ = ["Unavailable", "snapshot"]
