"""BlenderBot (Roller et al. 2020): BART's layers with norms before the sublayers and one at the end, and a table of
positions without rows for padding.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.bart_like import BartLikeConfig, family, sizes, sizes_of, with_defaults


@dataclass(frozen=True, kw_only=True)
class BlenderbotConfig(BartLikeConfig):
    family: ClassVar[str] = "blenderbot"
    norms: ClassVar[Any] = "before"
    embedding_norm: ClassVar[Any] = "none"
    final_norm: ClassVar[bool] = True


def read(c: dict[str, Any]) -> BlenderbotConfig:
    ids = dict(bos_token_id=1, pad_token_id=0, eos_token_id=2, decoder_start_token_id=1)
    return BlenderbotConfig(**sizes_of(with_defaults(c, **ids, max_position_embeddings=128)))


_MORE: dict[str, Any] = dict(vocabulary=8008, max_position_embeddings=128, scale_embedding=True)
FAMILY = family(
    "BlenderBot",
    BlenderbotConfig,
    {"blenderbot": read},
    {
        "blenderbot-400m-distill": sizes("blenderbot", (2, 12), 1280, 32, 5120, **_MORE),
        "blenderbot-3b": sizes("blenderbot", (2, 24), 2560, 32, 10240, **_MORE),
    },
)
