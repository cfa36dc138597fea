"""BART (Lewis et al. 2020): learned positions, a norm after each sublayer, biases everywhere."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.bart_like import BartLikeConfig, family, sizes, sizes_of, with_defaults


@dataclass(frozen=True, kw_only=True)
class BartConfig(BartLikeConfig):
    family: ClassVar[str] = "bart"
    hashed_as: ClassVar[str] = "BartSpec"

    @property
    def first_position(self) -> int:
        return 2


def read(c: dict[str, Any]) -> BartConfig:
    ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)
    return BartConfig(**sizes_of(with_defaults(c, **ids)))


_MORE: dict[str, Any] = dict(vocabulary=50265, max_position_embeddings=1024)
FAMILY = family(
    "BART",
    BartConfig,
    {"bart": read},
    {
        "bart-base": sizes("bart", 6, 768, 12, 3072, **_MORE),
        "bart-large": sizes("bart", 12, 1024, 16, 4096, **_MORE),
    },
)
