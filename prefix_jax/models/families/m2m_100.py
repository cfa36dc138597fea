"""M2M-100 (Fan et al. 2020) and NLLB-200 (dense): BART's layers with norms before the sublayers and one at the end, and
sines as positions, the first of which is after those of the pad token's id.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.bart_like import BartLikeConfig, family, sizes, sizes_of, with_defaults


@dataclass(frozen=True, kw_only=True)
class M2M100Config(BartLikeConfig):
    family: ClassVar[str] = "m2m_100"
    positions: ClassVar[str] = "sinusoidal"
    norms: ClassVar[Any] = "before"
    embedding_norm: ClassVar[Any] = "none"
    final_norm: ClassVar[bool] = True
    sines: ClassVar[Any] = "closed"
    logits_bias: ClassVar[bool] = False

    @property
    def first_position(self) -> int:
        return self.pad_id + 1


def read(c: dict[str, Any]) -> M2M100Config:
    ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)
    more = dict(activation_function="relu", scale_embedding=True)
    return M2M100Config(**sizes_of(with_defaults(c, **ids, **more)))


FAMILY = family(
    "M2M-100",
    M2M100Config,
    {"m2m_100": read},
    {
        "m2m100-418m": sizes("m2m_100", 12, 1024, 16, 4096, 128112),
        "m2m100-1.2b": sizes("m2m_100", 24, 1024, 16, 8192, 128112),
        "nllb-200-distilled-600m": sizes("m2m_100", 12, 1024, 16, 4096, 256206),
        "nllb-200-1.3b": sizes("m2m_100", 24, 1024, 16, 8192, 256206),
        "nllb-200-3.3b": sizes("m2m_100", 24, 2048, 16, 8192, 256206),
    },
)
