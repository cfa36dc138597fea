"""Model shapes and settings: the fields common to all families."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple


class Rotary(NamedTuple):
    """Rotary position settings of a layer.

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


class Alibi(NamedTuple):
    """Attention with linear biases (Press et al. 2022), in place of positions: logits fall with a key's distance.

    Attributes:
      slopes: of each query head.
      scale: what the biases are multiplied by.
      rounded: whether positions, slopes and their products are rounded to bfloat16 first.
    """

    slopes: tuple[float, ...]
    scale: float = 1.0
    rounded: bool = False


class LayerKind(NamedTuple):
    """A kind of layer: its sliding window, which includes the query (None: unlimited), and rotary positions."""

    window: int | None = None
    rotary: Rotary | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Fields common to all families. A decoder-only model has `encoder_layers == 0`.

    Attributes:
      family: persistent name in saved files.
      hashed_as: name that replaces the family's in the hash of a model's shapes; empty: `family`.
      positions: "learned" (embeddings), "sinusoidal" (fixed ones), "rotary" (rotated queries and keys), or "relative".
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
    # Additional end tokens, as in chat models.
    more_eos_ids: tuple[int, ...] = ()

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Returns all tokens that end a text."""
        return (self.eos_id, *self.more_eos_ids)

    @property
    def encoder_layers(self) -> int:
        return 0

    @property
    def is_encoder_decoder(self) -> bool:
        return self.encoder_layers > 0

    @property
    def context_length(self) -> int | None:
        """Returns the maximum number of positions, prefix included; None if positions are relative."""
        return None

    @property
    def learned_positions(self) -> int:
        """Returns the rows of the position table; 0: positions are not learned, or the family has a separate table."""
        return 0

    @property
    def embedding_width(self) -> int:
        """Returns the width of embeddings, and of the rows of a prompt."""
        return self.d_model

    @property
    def given_scale(self) -> float | None:
        """Returns what transformers multiplies embeddings by that it is given in place of tokens, as PEFT gives a
        prompt before a text; None: nothing, although it scales those of tokens.
        """
        return 1.0

    @property
    def cached_heads(self) -> int:
        """Returns the key-value heads in transformers' cache, which repeats them for each query in some models."""
        return self.kv_heads

    @property
    def alibi(self) -> Alibi | None:
        """Returns the linear biases of attention; None: it has none."""
        return None

    @property
    def soft_cap(self) -> float | None:
        """Returns the soft cap of attention logits; None: they have none."""
        return None

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        """Returns the kind of each layer (of the decoder, in an encoder-decoder)."""
        return (LayerKind(),) * self.layers

    @property
    def decoder_start(self) -> int:
        """Returns the first token of an encoder-decoder's output; unused by other models."""
        return 0

    @property
    def narrowest_window(self) -> int | None:
        """Returns the smallest sliding window of any layer; None if all are unlimited."""
        return min((kind.window for kind in self.layer_pattern if kind.window is not None), default=None)

    @property
    def sites(self) -> tuple[str, ...]:
        """Returns the sites that can carry a prefix."""
        return ("encoder", "decoder", "cross") if self.is_encoder_decoder else ("decoder",)

    def site_layers(self, site: str) -> int:
        return self.encoder_layers if site == "encoder" else self.layers


def model_config_json(model_config: ModelConfig) -> dict[str, Any]:
    """Returns the model config as JSON values, including the family's name."""
    return {"family": model_config.family, **dataclasses.asdict(model_config)}
