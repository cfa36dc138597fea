"""BlenderBot 90M: BART whose decoder normalises embeddings before it adds positions, from a table without rows for
padding.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.bart_like import BartLikeConfig, family, sizes, sizes_of, with_defaults


@dataclass(frozen=True, kw_only=True)
class BlenderbotSmallConfig(BartLikeConfig):
    family: ClassVar[str] = "blenderbot-small"
    embedding_norm: ClassVar[Any] = "decoder tokens"
    scaled_outside: ClassVar[bool] = True


def read(c: dict[str, Any]) -> BlenderbotSmallConfig:
    ids = dict(bos_token_id=1, pad_token_id=0, eos_token_id=2, decoder_start_token_id=1)
    return BlenderbotSmallConfig(**sizes_of(with_defaults(c, **ids, max_position_embeddings=512)))


FAMILY = family(
    "BlenderBot-small",
    BlenderbotSmallConfig,
    {"blenderbot-small": read},
    {"blenderbot-90m": sizes("blenderbot-small", 8, 512, 16, 2048, 54944, scale_embedding=True)},
)
