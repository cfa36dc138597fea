"""Marian (Junczys-Dowmunt et al. 2018), OPUS-MT's translation models: BART's layers, and sines as positions, not
normalised. Decoding begins with the pad token, which must not be written.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.bart_like import BartLikeConfig, family, sizes, sizes_of, with_defaults
from prefix_jax.models.families.hf_config import refuse


@dataclass(frozen=True, kw_only=True)
class MarianConfig(BartLikeConfig):
    family: ClassVar[str] = "marian"
    positions: ClassVar[str] = "sinusoidal"
    embedding_norm: ClassVar[Any] = "none"
    sines: ClassVar[Any] = "open"
    scaled_outside: ClassVar[bool] = True


def read(c: dict[str, Any]) -> MarianConfig:
    refuse(c, "share_encoder_decoder_embeddings", (True,))
    if c.get("decoder_vocab_size") is not None:
        refuse(c, "decoder_vocab_size", (c["vocab_size"],))
    pad = 58100 if c.get("pad_token_id") is None else c["pad_token_id"]
    return MarianConfig(**sizes_of(with_defaults(c, pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad)))


_MORE: dict[str, Any] = dict(activation_function="swish", max_position_embeddings=512, scale_embedding=True)
FAMILY = family(
    "Marian",
    MarianConfig,
    {"marian": read},
    {
        "opus-mt-en-de": sizes("marian", 6, 512, 8, 2048, 58101, pad_token_id=58100, **_MORE),
        "opus-mt-en-fr": sizes("marian", 6, 512, 8, 2048, 59514, pad_token_id=59513, **_MORE),
    },
)
