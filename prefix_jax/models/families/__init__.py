"""Table of model families: one file and one row each."""

from typing import Any

from prefix_jax.errors import UserError
from prefix_jax.models.families import bart, gemma3, gpt2, gptj, llama, qwen3, t5
from prefix_jax.models.families.family import Family
from prefix_jax.models.model_config import ModelConfig

FAMILIES: dict[str, Family] = {
    module.FAMILY.model_config.family: module.FAMILY for module in (gpt2, llama, t5, bart, gptj, qwen3, gemma3)
}


def of(model_config: ModelConfig) -> Family:
    """Returns the family of a model config."""
    return FAMILIES[model_config.family]


def from_hf(config: dict[str, Any]) -> ModelConfig:
    """Reads a model config from the dictionary in a `config.json`.

    Raises:
      UserError: the family is unknown, or the configuration uses an unsupported feature.
    """
    readers = {kind: reader for family in FAMILIES.values() for kind, reader in family.readers.items()}
    kind = config.get("model_type", "")
    if kind not in readers:
        # The name comes from a file, so it is not a typing error and a suggestion would not help.
        raise UserError(f'model_type "{kind}" is not supported; known: {", ".join(sorted(readers))}')
    return readers[kind](config)


__all__ = ["FAMILIES", "Family", "from_hf", "of"]
