"""What a model's shapes are: the part of the frozen description that all families have."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple


class Rotary(NamedTuple):
    """Rotary positions of a layer.

    Attributes:
      base: of the frequencies.
      scaling: ("linear", factor), ("llama3", factor, low, high, original positions), ("yarn", amplitude, factor, fast,
        slow, original positions, whether the ramp's ends are whole numbers) or ("longrope", amplitude, a factor for
        each frequency...); None: plain.
      dims: how many numbers of a head are rotated, from the first; 0: all.
      interleaved: whether neighbours form a pair (GPT-J), or the numbers of two halves.
    """

    base: float
    scaling: tuple | None = None
    dims: int = 0
    interleaved: bool = False


class LayerKind(NamedTuple):
    """What layers of one kind share: how many tokens a query sees, with itself (None: all), and rotary positions."""

    window: int | None = None
    rotary: Rotary | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every family has. A decoder-only model has `encoder_layers == 0`.

    Attributes:
      family: its name in saved files, which never changes.
      hashed_as: what stands for the family in the hash of a model's shapes; empty: `family`.
      positions: what positions do: "learned" (embeddings), "rotary" (they rotate queries and keys), or "relative".
    """

    family: ClassVar[str]
    hashed_as: ClassVar[str] = ""
    positions: ClassVar[str]
    vocab_size: int
    layers: int
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    norm_epsilon: float
    tie_embeddings: bool
    eos_id: int
    bos_id: int | None
    pad_id: int
    # Other tokens that end a text, as chat models have them.
    more_eos_ids: tuple[int, ...] = ()

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All tokens that end a text."""
        return (self.eos_id, *self.more_eos_ids)

    @property
    def encoder_layers(self) -> int:
        return 0

    @property
    def is_encoder_decoder(self) -> bool:
        return self.encoder_layers > 0

    @property
    def context_length(self) -> int | None:
        """The most positions a sequence may have, prefix included; None where positions are relative."""
        return None

    @property
    def learned_positions(self) -> int:
        """Rows of the table of positions; 0: positions are not learned, or the family has a table of its own."""
        return 0

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        """The kind of each layer (of an encoder-decoder: of the decoder)."""
        return (LayerKind(),) * self.layers

    @property
    def decoder_start(self) -> int:
        """The token that begins an encoder-decoder's output; others have no use for it."""
        return 0

    @property
    def narrowest_window(self) -> int | None:
        """The smallest sliding window of a layer; None where all see everything."""
        return min((kind.window for kind in self.layer_pattern if kind.window is not None), default=None)

    @property
    def sites(self) -> tuple[str, ...]:
        """The attentions that can carry a prefix."""
        return ("encoder", "decoder", "cross") if self.is_encoder_decoder else ("decoder",)

    def site_layers(self, site: str) -> int:
        return self.encoder_layers if site == "encoder" else self.layers


def model_config_json(model_config: ModelConfig) -> dict[str, Any]:
    """Returns the spec as JSON values, with the family's name."""
    return {"family": model_config.family, **dataclasses.asdict(model_config)}
