"""Two files that belong together: tensors, and a JSON that says what model they are for and holds their hash."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from safetensors.numpy import save as safetensors_bytes

import prefix_jax
from prefix_jax import schema
from prefix_jax.disk import from_json
from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig, model_config_json
from prefix_jax.models.pretrained import safetensors_file
from prefix_jax.workdir import TUNED

FORMAT = 1


class Description(TypedDict):
    """What the JSON of any pair says."""

    format: int
    model: dict[str, str | None]
    spec: NotRequired[dict[str, Any] | None]
    version: NotRequired[str]
    sha256: NotRequired[str | None]
    method: NotRequired[str]
    step: NotRequired[schema.Size]
    config: NotRequired[dict[str, Any] | None]


@dataclass(frozen=True)
class Pair:
    """`NAME.safetensors` and `NAME.json` in a run's `tuned/`; `schema` is the JSON's."""

    name: str
    schema: Any

    @property
    def tensors(self) -> str:
        return f"{self.name}.safetensors"

    @property
    def about(self) -> str:
        return f"{self.name}.json"

    def find(self, folder: str | os.PathLike) -> Path | None:
        """Returns the folder that holds the files: the one given, or its `tuned/`; None where neither does."""
        parts = (Path(folder), Path(folder, TUNED))
        return next((part for part in parts if (part / self.about).is_file()), None)

    def encode(self, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, bytes]:
        """Returns the contents of the two files, by name: the tensors in float32."""
        arrays = {name: np.ascontiguousarray(leaf, np.float32) for name, leaf in tensors.items()}
        content = safetensors_bytes(arrays, {"format": "pt"})
        text = json.dumps({**about, "sha256": hashlib.sha256(content).hexdigest()}, indent=2, default=str)
        return {self.tensors: content, self.about: f"{text}\n".encode()}

    def read_about(self, folder: Path) -> dict[str, Any]:
        """Returns what the JSON says.

        Raises:
          UserError: it is damaged, or of another format.
        """
        path = folder / self.about
        try:
            about = from_json(path.read_bytes())
        except (ValueError, OSError) as error:
            raise UserError(f"{path} cannot be read as JSON ({error}); copy it again from the run") from None
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise UserError(f'{path} is not of format {FORMAT} (its "format" must say so); copy it again from the run')
        return schema.checked(about, self.schema, path, "copy it again from the run")

    def read_tensors(self, folder: Path, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the tensors that the JSON describes, in float32.

        Raises:
          UserError: they are missing, damaged, or not those that the JSON beside them is about.
        """
        path = folder / self.tensors
        if not path.is_file():
            raise UserError(f"{path} is missing beside {self.about}; copy it from the run")
        table, _ = safetensors_file.read(path)
        if about.get("sha256") not in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
            raise UserError(
                f"{path} is not the one that {self.about} beside it describes (saving was cut short, or one was copied "
                "without the other); run the training command again, which writes both, or copy both again"
            )
        # A copy: the file may be replaced while its numbers are in use.
        return {name: np.array(leaf.all(), np.float32) for name, leaf in table.items()}


def described(identity: Mapping[str, Any], model_config: ModelConfig | None) -> dict[str, Any]:
    """Returns what the JSON of any pair says: its format, the model it is for, and what wrote it."""
    return {
        "format": FORMAT,
        "model": dict(identity),
        "spec": None if model_config is None else model_config_json(model_config),
        "library": "prefix_jax",
        "version": prefix_jax.__version__,
    }
