"""Downloads from the Hugging Face hub: configuration, weights and tokenizer of a model id."""

from pathlib import Path

from prefix_jax.errors import UserError

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


class Unavailable(UserError):
    """The hub does not have the model, or cannot be reached."""


def snapshot(name: str) -> tuple[Path, str]:
    """Returns the directory and commit of a model, from the hub or, if it is unreachable, from its cache.

    Downloads only the needed files: safetensors if available, otherwise torch files.

    Raises:
      UserError: the model is gated.
      Unavailable: the model does not exist, or the hub is unreachable and its cache has no copy.
    """
    from huggingface_hub import errors, snapshot_download

    def download(patterns: list[str]) -> Path:
        # Subdirectories hold other formats of the model (onnx/, gguf/).
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))

    try:
        path = download(_SMALL)
        download(_SAFETENSORS)
        if not any(path.glob("*.safetensors")):
            download(_TORCH)
    except errors.GatedRepoError:
        raise UserError(f'the model "{name}" is gated; accept its terms on the hub, then run: hf auth login') from None
    except (errors.HFValidationError, errors.RepositoryNotFoundError):
        raise Unavailable(f'the hub has no model "{name}"') from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f'"{name}" could not be downloaded from the hub: {error}; free some space, or set $HF_HOME'
            ) from None
        if not _is_transport(error):
            raise
        raise Unavailable(f'the hub cannot be reached and "{name}" is not in its cache') from None
    return path, path.name


def _is_transport(error: Exception) -> bool:
    """Returns whether the network failed, for any HTTP client that huggingface_hub may use."""
    from huggingface_hub import errors

    known = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError)
    return isinstance(error, known) or type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests")
