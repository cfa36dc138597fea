"""The Hugging Face hub: a model's id to a directory that holds its configuration, weights and tokenizer."""

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
# Vocabularies by the other names that transformers knows.
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
    """The hub has no such model, or cannot be reached."""


def snapshot(name: str, weights: bool = True) -> tuple[Path, str]:
    """Returns the directory and the commit of a model, from the hub or, where it is out of reach, from its cache.

    Only what is needed is downloaded: safetensors where there are any, else the torch files; with `weights=False`
    neither.

    Raises:
      UserError: it is gated; or (`Unavailable`) there is no such model, or the hub cannot be reached and its cache has
        no copy.
    """
    from huggingface_hub import errors, snapshot_download

    def download(patterns: list[str]) -> Path:
        # Subdirectories hold other forms of the model (onnx/, gguf/).
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))

    try:
        path = download(_SMALL)
        if weights:
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
                f'"{name}" could not be downloaded from the hub: {error}; free the disk, or set $HF_HOME'
            ) from None
        if not _is_transport(error):
            raise
        raise Unavailable(f'the hub cannot be reached and "{name}" is not in its cache') from None
    return path, path.name


def _is_transport(error: Exception) -> bool:
    """Whether the network failed, by whichever HTTP client this version of huggingface_hub uses."""
    from huggingface_hub import errors

    known = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError)
    return isinstance(error, known) or type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests")
