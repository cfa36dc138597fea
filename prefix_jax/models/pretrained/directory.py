"""Hugging Face checkpoint directories: `config.json` and safetensors or torch files, single or sharded."""

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

from prefix_jax.disk import from_json
from prefix_jax.errors import UserError
from prefix_jax.models.leaves import Leaf
from prefix_jax.models.pretrained import causes, safetensors_file, torch_file

# The name of a file beside another.
_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]{1,255}")
_READERS = {
    "model.safetensors": lambda path: safetensors_file.read(path)[0],
    "pytorch_model.bin": torch_file.read,
}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Leaf]]:
    """Returns the configuration, and the leaves by tensor name.

    Raises:
      UserError: a file is missing, damaged, or in another format than its suffix.
    """
    if not (path / "config.json").is_file() and (cause := causes.of_folder(path)):
        raise UserError(f"{path} has no config.json of a model{cause}")
    config = {**read_json(path / "config.json"), **_generation(path / "generation_config.json")}
    if "model_type" not in config and isinstance(config.get("config"), dict):
        raise UserError(f"{path} is a run directory of prefix_jax, not a model; name the model that it was tuned on")
    for name, reader in _READERS.items():
        if (path / name).is_file():
            _say_adapter(path)
            return config, reader(path / name)
        index = path / f"{name}.index.json"
        if index.is_file():
            _say_adapter(path)
            return config, _shards(index, reader)
    cause = causes.of_folder(path) or f"; it needs {' or '.join(_READERS)}, or their index and shards"
    raise UserError(f"{path} has no weights that can be read{cause}")


def _say_adapter(path: Path) -> None:
    if (path / "adapter_config.json").is_file():
        print(f"{path} also holds a PEFT adapter, which is not applied: its model is used as it is.", file=sys.stderr)


# Options of decoding of which `generation_config.json`, where there is one, has the last word.
_FORCED = ("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "suppress_tokens")


def _generation(file: Path) -> dict[str, Any]:
    """Returns the options of `generation_config.json` that take precedence over those of `config.json`."""
    if not file.is_file():
        return {}
    found = read_json(file)
    ids = {name: found[name] for name in ("eos_token_id", "decoder_start_token_id") if found.get(name) is not None}
    return {**ids, **{name: found.get(name) for name in _FORCED}}


def _shards(index: Path, reader: Any) -> dict[str, Leaf]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) and _NAME.fullmatch(v) for v in places.values()):
        raise UserError(f"{index} has no weight_map from tensors to files beside it; download it again")
    absent = [name for name in sorted(set(places.values())) if not os.path.isfile(index.parent / name)]
    if absent:
        raise UserError(
            f"{index} names the shard {absent[0]}, which is not beside it ({len(absent)} of "
            f"{len(set(places.values()))} are missing); download the checkpoint again"
        )
    shards = {name: reader(index.parent / name) for name in sorted(set(places.values()))}
    for tensor, name in places.items():
        if tensor not in shards[name]:
            raise UserError(
                f'{index.parent / name} has no tensor "{tensor}", which {index.name} puts there; download it again'
            )
    return {tensor: shards[name][tensor] for tensor, name in places.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
      UserError: the file is absent or does not hold a JSON object.
    """
    try:
        value = from_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist; a checkpoint is a directory with config.json and weights") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({os.strerror(error.errno or errno.EIO).lower()})") from None
    except ValueError as error:
        causes.refuse_other_bytes(path)
        raise UserError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object; download it again")
    return value
