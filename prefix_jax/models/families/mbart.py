"""mBART (Liu et al. 2020) and mBART-50: BART with its norms before the sublayers, and one after the last layer.

Texts begin or end with the code of their language, which is a token.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.bart_like import BartLikeConfig, family, sizes, sizes_of, with_defaults


@dataclass(frozen=True, kw_only=True)
class MBartConfig(BartLikeConfig):
    family: ClassVar[str] = "mbart"
    norms: ClassVar[Any] = "before"
    final_norm: ClassVar[bool] = True

    @property
    def first_position(self) -> int:
        return 2


def read(c: dict[str, Any]) -> MBartConfig:
    ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)
    return MBartConfig(**sizes_of(with_defaults(c, **ids)))


_MORE: dict[str, Any] = dict(max_position_embeddings=1024, scale_embedding=True)
FAMILY = family(
    "mBART",
    MBartConfig,
    {"mbart": read},
    {
        "mbart-large-cc25": sizes("mbart", 12, 1024, 16, 4096, 250027, **_MORE),
        "mbart-large-50": sizes("mbart", 12, 1024, 16, 4096, 250054, **_MORE),
    },
)
