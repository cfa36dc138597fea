"""What a model's shapes are: one frozen description per family, made from a Hugging Face `config.json`."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from prefix_jax.errors import UserError


class Rotary(NamedTuple):
    """Rotary positions of a layer.

    Attributes:
      base: of the frequencies.
      scaling: ("linear", factor) or ("llama3", factor, low, high, original positions); None: plain.
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
class Spec:
    """What every family has. A decoder-only model has `encoder_layers == 0`.

    `positions` says what positions do: "learned" embeddings, "rotary" (they rotate queries and keys), or "relative".
    """

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
    def window(self) -> int | None:
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
    def sites(self) -> tuple[str, ...]:
        """The attentions that can carry a prefix."""
        return ("encoder", "decoder", "cross") if self.encoder_layers else ("decoder",)

    def site_layers(self, site: str) -> int:
        return self.encoder_layers if site == "encoder" else self.layers


@dataclass(frozen=True, kw_only=True)
class GPT2Spec(Spec):
    positions: ClassVar[str] = "learned"
    max_positions: int

    @property
    def learned_positions(self) -> int:
        return self.max_positions

    @property
    def window(self) -> int:
        return self.max_positions


@dataclass(frozen=True, kw_only=True)
class LlamaSpec(Spec):
    positions: ClassVar[str] = "rotary"
    max_positions: int
    rope_base: float
    rope_scaling: tuple | None  # as in `Rotary`
    qkv_bias: bool
    sliding_window: int | None

    @property
    def window(self) -> int:
        return self.max_positions

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        return (LayerKind(self.sliding_window, Rotary(self.rope_base, self.rope_scaling)),) * self.layers


@dataclass(frozen=True, kw_only=True)
class T5Spec(Spec):
    positions: ClassVar[str] = "relative"
    encoder_depth: int
    gated: bool
    # "relu", "gelu" (the tanh form) or "silu".
    activation: str
    buckets: int
    max_distance: int
    decoder_start_id: int
    # Hidden states are multiplied by d_model ** -0.5 before the vocabulary: T5 1.0, whose embeddings are tied.
    scale_outputs: bool

    @property
    def encoder_layers(self) -> int:
        return self.encoder_depth


@dataclass(frozen=True, kw_only=True)
class BartSpec(Spec):
    positions: ClassVar[str] = "learned"
    encoder_depth: int
    encoder_d_ff: int
    activation: str
    max_positions: int
    decoder_start_id: int
    scale_embeddings: bool

    @property
    def encoder_layers(self) -> int:
        return self.encoder_depth

    @property
    def window(self) -> int:
        """Of the encoder and of the decoder, each for itself."""
        return self.max_positions


def from_hf(config: dict[str, Any]) -> Spec:
    """Returns the spec of a model from the dictionary in its `config.json`.

    Raises:
      UserError: the family is not one of ours, or the configuration asks for something the family here does not have.
    """
    family = config.get("model_type", "")
    if family not in _FAMILIES:
        # A file says it, and nobody mistyped it: the nearest name would be no mend.
        raise UserError(f'model_type "{family}" is not supported; known: {", ".join(sorted(_FAMILIES))}')
    return _FAMILIES[family](config)


def spec_dict(spec: Spec) -> dict[str, Any]:
    """Returns the spec as JSON values, with the family's name."""
    return {"family": type(spec).__name__.removesuffix("Spec").lower(), **dataclasses.asdict(spec)}


def _refuse(config: dict, option: str, allowed: tuple) -> None:
    if config.get(option, allowed[0]) not in allowed:
        raise UserError(
            f"this {config['model_type']} model has {option}={config[option]!r}, which is not supported "
            f"(only {', '.join(repr(a) for a in allowed)})"
        )


def _first(value: Any, default: Any = None) -> Any:
    """The first of a list of ids."""
    if isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else value


def _ends(c: dict, default: int) -> dict[str, Any]:
    """The tokens that end a text, of which some models name several."""
    ids = c.get("eos_token_id")
    first = _first(ids, default)
    return {"eos_id": first, "more_eos_ids": tuple(i for i in ids[1:] if i != first) if isinstance(ids, list) else ()}


def _gpt2(c: dict) -> GPT2Spec:
    _refuse(c, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
    _refuse(c, "scale_attn_by_inverse_layer_idx", (False,))
    _refuse(c, "scale_attn_weights", (True,))
    d_model, heads = c["n_embd"], c["n_head"]
    return GPT2Spec(
        vocab_size=c["vocab_size"],
        layers=c["n_layer"],
        d_model=d_model,
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=c.get("n_inner") or 4 * d_model,
        norm_epsilon=c.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **_ends(c, 50256),
        bos_id=_first(c.get("bos_token_id"), 50256),
        pad_id=_first(c.get("pad_token_id"), 0),
        max_positions=c.get("n_positions", 1024),
    )


def _rope_scaling(rope: dict) -> tuple | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return ("linear", float(rope["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return ("llama3", *(float(rope[n]) for n in names))
    raise UserError(f'rotary scaling "{kind}" is not supported (only default, linear, llama3)')


def _rope(c: dict) -> dict:
    """What a configuration says of rotary positions, with the precedence that transformers gives its several forms."""
    found = dict(c.get("rope_scaling") or c.get("rope_parameters") or {})
    found["rope_theta"] = found.get("rope_theta") or c.get("rope_theta") or 10000.0
    original = c.get("original_max_position_embeddings")
    return {**found, "original_max_position_embeddings": original} if original else found


def _sliding_window(c: dict) -> int | None:
    """How many columns a token sees, where all layers have such a window."""
    qwen = c["model_type"] == "qwen2"
    # transformers' Llama has no window, whatever its configuration says.
    if c["model_type"] == "llama" or (qwen and not c.get("use_sliding_window")):
        return None
    window, layers = c.get("sliding_window", 4096), c["num_hidden_layers"]
    whole = c.get("max_window_layers", 28) if qwen else 0
    kinds = c.get("layer_types") or ["full_attention"] * min(whole, layers) + ["sliding_attention"] * (layers - whole)
    if window is None or set(kinds) == {"full_attention"}:
        return None
    if set(kinds) != {"sliding_attention"}:
        said = "layer_types" if c.get("layer_types") else f"max_window_layers={whole}"
        raise UserError(
            f"this {c['model_type']} model has a window in some of its layers only ({said}), which is not supported"
        )
    return window


def _llama(c: dict) -> LlamaSpec:
    _refuse(c, "hidden_act", ("silu",))
    _refuse(c, "mlp_bias", (False,))
    heads = c["num_attention_heads"]
    rope = _rope(c)
    qwen = c["model_type"] == "qwen2"
    if not qwen:
        _refuse(c, "attention_bias", (False,))
    return LlamaSpec(
        vocab_size=c["vocab_size"],
        layers=c["num_hidden_layers"],
        d_model=c["hidden_size"],
        heads=heads,
        kv_heads=c.get("num_key_value_heads") or heads,
        head_dim=c.get("head_dim") or c["hidden_size"] // heads,
        d_ff=c["intermediate_size"],
        norm_epsilon=c.get("rms_norm_eps", 1e-6),
        tie_embeddings=c.get("tie_word_embeddings", False),
        **_ends(c, 2),
        bos_id=_first(c.get("bos_token_id")),
        pad_id=_first(c.get("pad_token_id"), 0),
        max_positions=c.get("max_position_embeddings", 2048),
        rope_base=float(rope["rope_theta"]),
        rope_scaling=_rope_scaling(rope),
        qkv_bias=qwen,
        sliding_window=_sliding_window(c),
    )


def _t5(c: dict) -> T5Spec:
    projection = c.get("feed_forward_proj", "relu")
    gated = projection.startswith("gated-")
    activation = projection.removeprefix("gated-").replace("gelu_new", "gelu")
    if activation not in ("relu", "gelu", "silu") or (activation == "gelu" and not gated):
        raise UserError(f'feed_forward_proj "{projection}" is not supported (only relu, gated-gelu, gated-silu)')
    _refuse(c, "dense_act_fn", (activation.replace("gelu", "gelu_new"),))
    return T5Spec(
        vocab_size=c["vocab_size"],
        layers=c.get("num_decoder_layers") or c["num_layers"],
        d_model=c["d_model"],
        heads=c["num_heads"],
        kv_heads=c["num_heads"],
        head_dim=c["d_kv"],
        d_ff=c["d_ff"],
        norm_epsilon=c.get("layer_norm_epsilon", 1e-6),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **_ends(c, 1),
        bos_id=None,
        pad_id=_first(c.get("pad_token_id"), 0),
        encoder_depth=c["num_layers"],
        gated=gated,
        activation=activation,
        buckets=c.get("relative_attention_num_buckets", 32),
        max_distance=c.get("relative_attention_max_distance", 128),
        decoder_start_id=_first(c.get("decoder_start_token_id"), 0),
        # transformers' MT5 never scales, whatever its configuration says.
        scale_outputs=c["model_type"] != "mt5" and c.get("scale_decoder_outputs", c.get("tie_word_embeddings", True)),
    )


def _bart(c: dict) -> BartSpec:
    _refuse(c, "activation_function", ("gelu", "relu"))
    heads = c["decoder_attention_heads"]
    if c["encoder_attention_heads"] != heads:
        raise UserError(
            f"this bart model has {c['encoder_attention_heads']} heads in the encoder and {heads} in the decoder, "
            "which is not supported"
        )
    return BartSpec(
        vocab_size=c["vocab_size"],
        layers=c["decoder_layers"],
        d_model=c["d_model"],
        heads=heads,
        kv_heads=heads,
        head_dim=c["d_model"] // heads,
        d_ff=c["decoder_ffn_dim"],
        norm_epsilon=1e-5,
        tie_embeddings=c.get("tie_word_embeddings", True),
        **_ends(c, 2),
        bos_id=_first(c.get("bos_token_id"), 0),
        pad_id=_first(c.get("pad_token_id"), 1),
        encoder_depth=c["encoder_layers"],
        encoder_d_ff=c["encoder_ffn_dim"],
        activation=c.get("activation_function", "gelu"),
        max_positions=c.get("max_position_embeddings", 1024),
        decoder_start_id=_first(c.get("decoder_start_token_id"), 2),
        scale_embeddings=c.get("scale_embedding", False),
    )


_FAMILIES = {
    "gpt2": _gpt2, "llama": _llama, "mistral": _llama, "qwen2": _llama, "t5": _t5, "mt5": _t5, "bart": _bart,
}  # fmt: skip
