"""PEGASUS (Zhang et al. 2020): BART's layers with norms before the sublayers and one at the end; sines as positions."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.bart_like import BartLikeConfig, family, sizes, sizes_of, with_defaults


@dataclass(frozen=True, kw_only=True)
class PegasusConfig(BartLikeConfig):
    family: ClassVar[str] = "pegasus"
    positions: ClassVar[str] = "sinusoidal"
    norms: ClassVar[Any] = "before"
    embedding_norm: ClassVar[Any] = "none"
    final_norm: ClassVar[bool] = True
    sines: ClassVar[Any] = "open"
    scaled_outside: ClassVar[bool] = True


def read(c: dict[str, Any]) -> PegasusConfig:
    return PegasusConfig(**sizes_of(with_defaults(c, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)))


_MORE: dict[str, Any] = dict(vocabulary=96103, activation_function="relu", scale_embedding=True)
FAMILY = family(
    "PEGASUS",
    PegasusConfig,
    {"pegasus": read},
    {
        "pegasus-large": sizes("pegasus", 16, 1024, 16, 4096, **_MORE, max_position_embeddings=1024),
        "pegasus-xsum": sizes("pegasus", 16, 1024, 16, 4096, **_MORE, max_position_embeddings=512),
    },
)
