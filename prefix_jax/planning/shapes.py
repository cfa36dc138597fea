"""Model configs of well-known models by name, for planning without their files."""

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models import FAMILIES, from_hf
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained import open_checkpoint

# From papers and published config.json files.
KNOWN = {name: config for family in FAMILIES.values() for name, config in family.known.items()}


def spec_of(source: str) -> ModelConfig:
    """Returns the model config for one of the names here, or for any `model.source`.

    Raises:
      UserError: the model does not exist.
    """
    if source in KNOWN:
        return from_hf(KNOWN[source])
    try:
        return from_hf(open_checkpoint(source).config)
    except UserError as error:
        hint = did_you_mean(source, tuple(KNOWN))
        raise UserError(f"{error}{hint if 'did you mean' in hint else ''}") from error
