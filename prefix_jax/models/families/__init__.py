"""The families of models: a file and a row each."""

from typing import Any

from prefix_jax.errors import UserError
from prefix_jax.models.families import bart, gemma3, gpt2, gpt_bigcode, gpt_neox, gptj, llama, qwen3, t5
from prefix_jax.models.families.family import Family
from prefix_jax.models.model_config import ModelConfig

FAMILIES: dict[str, Family] = {
    module.FAMILY.model_config.family: module.FAMILY
    for module in (gpt2, llama, t5, bart, gptj, qwen3, gemma3, gpt_neox, gpt_bigcode)
}


def of(model_config: ModelConfig) -> Family:
    """Returns the family of a spec."""
    return FAMILIES[model_config.family]


def from_hf(config: dict[str, Any]) -> ModelConfig:
    """Returns the spec of a model from the dictionary in its `config.json`.

    Raises:
      UserError: the family is not one of ours, or the configuration asks for something the family here does not have.
    """
    readers = {kind: reader for family in FAMILIES.values() for kind, reader in family.readers.items()}
    kind = config.get("model_type", "")
    if kind not in readers:
        # A file names it, so it is not a typing error: the nearest name would not help.
        raise UserError(f'model_type "{kind}" is not supported; known: {", ".join(sorted(readers))}')
    return readers[kind](config)


__all__ = ["FAMILIES", "Family", "from_hf", "of"]
