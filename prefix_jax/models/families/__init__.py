"""Table of model families: one file and one row each."""

from typing import Any

from prefix_jax.errors import UserError
from prefix_jax.models.families import (
    bart,
    blenderbot,
    blenderbot_small,
    bloom,
    codegen,
    cohere,
    falcon,
    gemma,
    gemma2,
    gemma3,
    glm4,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    llama,
    m2m_100,
    marian,
    mbart,
    mixtral,
    mpt,
    nemotron,
    olmo2,
    opt,
    pegasus,
    phi,
    phi3,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    smollm3,
    stablelm,
    starcoder2,
    t5,
    umt5,
)
from prefix_jax.models.families.family import Family
from prefix_jax.models.families.hf_config import check_attention
from prefix_jax.models.families.option_types import check_fields, check_options
from prefix_jax.models.model_config import ModelConfig

FAMILIES: dict[str, Family] = {
    module.FAMILY.model_config.family: module.FAMILY
    for module in (
        gpt2,
        llama,
        t5,
        umt5,
        bart,
        mbart,
        pegasus,
        marian,
        m2m_100,
        blenderbot,
        blenderbot_small,
        gptj,
        qwen3,
        gemma3,
        gemma,
        gemma2,
        smollm3,
        phi,
        phi3,
        olmo2,
        granite,
        starcoder2,
        stablelm,
        cohere,
        glm4,
        nemotron,
        gpt_neox,
        gpt_bigcode,
        mixtral,
        qwen2_moe,
        qwen3_moe,
        gpt_neo,
        opt,
        codegen,
        bloom,
        mpt,
        falcon,
        gpt_oss,
    )
}


def of(model_config: ModelConfig) -> Family:
    """Returns the family of a model config."""
    return FAMILIES[model_config.family]


def from_hf(config: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """Returns the description of a model from the dictionary in its `config.json`, which messages call `where`.

    Raises:
      UserError: the family is not supported, an option is missing or has the wrong type, or the configuration asks for
        something that the family here does not have.
    """
    check_options(config, where)
    readers = {kind: reader for family in FAMILIES.values() for kind, reader in family.readers.items()}
    kind = config.get("model_type", "")
    if kind not in readers:
        # The name comes from a file, so it is not a typing error and a suggestion would not help.
        raise UserError(f'model_type "{kind}" is not supported; known: {", ".join(sorted(readers))}')
    check_attention(config)
    try:
        found = readers[kind](config)
    except KeyError as error:
        raise UserError(f"{where} has no {error}; download it again") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{where} cannot be read as that of a {kind} model ({error}); download it again") from None
    check_fields(found, where)
    return found


__all__ = ["FAMILIES", "Family", "from_hf", "of"]
