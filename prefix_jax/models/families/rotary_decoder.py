"""What decoder-only families with rotary positions share: a description, a network and a mapping of tensors, of which
a family's file says only what differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.family import Family, Gguf, Module, module
from prefix_jax.models.families.hf_config import end_ids, first_id, rope_parameters, rotary_context, rotary_scaling
from prefix_jax.models.layers import MLP, Block, GatedMLP, LayerNorm, RMSNorm, SelfAttention
from prefix_jax.models.leaves import Leaf, concatenate, narrowed, shifted, split, stack, transpose
from prefix_jax.models.model_config import LayerKind, ModelConfig, Rotary
from prefix_jax.models.parameters import Names, Tree, embedding, head, linear, stacked


class Tensors(NamedTuple):
    """The names of a layer's tensors in a checkpoint.

    Attributes:
      norms: by our name of a norm, theirs.
      mlp: by our name of a projection, theirs.
      out: the projection after attention.
      qkv: one tensor with the rows of queries, keys and values; empty: q_proj, k_proj and v_proj.
      gate_up: one tensor with the rows of gate and up; empty: two.
      head_norms: the norms of queries and of keys.
      sinks: the logits of attention sinks, one for each query head; empty: none.
      final: the last norm.
      norm_offset: what is added to the weights of norms.
      norm_bias: whether norms have biases.
    """

    norms: Mapping[str, str] = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    mlp: Mapping[str, str] = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    out: str = "self_attn.o_proj"
    qkv: str = ""
    gate_up: str = ""
    head_norms: tuple[str, str] = ("self_attn.q_norm", "self_attn.k_norm")
    sinks: str = ""
    final: str = "norm"
    norm_offset: float = 0.0
    norm_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class RotaryConfig(ModelConfig):
    """Sizes, and the numbers that scale logits and sums.

    Attributes:
      rotary_dims: how many numbers of a head are rotated; 0: all.
      sliding: for each layer, whether it has the sliding window; empty: all.
      unrotated: for each layer, whether it has no positions; empty: none.
      query_scale: what attention logits are multiplied by; 0: the inverse square root of `head_dim`.
      parallel: whether attention and MLP run side by side.
    """

    positions: ClassVar[str] = "rotary"
    tensors: ClassVar[Tensors] = Tensors()
    interleaved: ClassVar[bool] = False
    head_bias: ClassVar[bool] = False
    # Whether queries and keys have a norm, whether it is one of all heads together, and whether each head has its own.
    head_norm: ClassVar[bool] = False
    whole_norm: ClassVar[bool] = False
    own_norms: ClassVar[bool] = False
    max_positions: int
    rope_base: float
    rope_scaling: tuple | None  # as in `Rotary`
    rotary_dims: int = 0
    query_scale: float = 0.0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    sliding: tuple[bool, ...] = ()
    unrotated: tuple[bool, ...] = ()
    parallel: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float | None = None
    attention_cap: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "query_scale", self.query_scale or attention_scale(self.head_dim))

    @property
    def logit_multiplier(self) -> float:
        """Returns what attention logits are multiplied by."""
        return self.query_scale

    @property
    def soft_cap(self) -> float | None:
        return self.attention_cap

    @property
    def normed_heads(self) -> bool:
        return self.head_norm

    @property
    def mlp_width(self) -> int:
        """Returns the inner width of the MLP that each token takes."""
        return self.d_ff

    @property
    def context_length(self) -> int:
        return self.max_positions

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        rotary = Rotary(self.rope_base, self.rope_scaling, self.rotary_dims, self.interleaved)
        sliding, unrotated = self.sliding or (True,) * self.layers, self.unrotated or (False,) * self.layers
        return tuple(
            LayerKind(self.sliding_window if near else None, None if plain else rotary)
            for near, plain in zip(sliding, unrotated, strict=True)
        )


class RotaryDecoder(DecoderOnly):
    """The network of a `RotaryConfig`; a family gives its activation, its norms and where they are."""

    model_config: RotaryConfig
    activation: ClassVar[Callable[[jax.Array], jax.Array]] = staticmethod(jax.nn.silu)
    norms: ClassVar[Any] = "before"
    attention: ClassVar[type[SelfAttention]] = SelfAttention

    @property
    def head_bias(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model_config.head_bias

    @property
    def embedding_scale(self) -> float:
        return self.model_config.embedding_scale

    @property
    def logit_scale(self) -> float:
        return self.model_config.logit_scale

    @property
    def logit_cap(self) -> float | None:
        return self.model_config.logit_cap

    def make_block(self) -> nn.Module:
        s = self.model_config
        attention = self.attention(
            s.kv_heads,
            s.heads // s.kv_heads,
            s.head_dim,
            s.logit_multiplier,
            bias=s.qkv_bias,
            out_bias=s.out_bias,
            head_norm=s.norm_epsilon if s.normed_heads else None,
            interleaved=s.interleaved,
            cap=s.attention_cap,
        )
        norms = "parallel" if s.parallel else self.norms
        return Block(attention, self.make_mlp(), self._norm(), norms=norms, residual=s.residual_scale)

    def make_mlp(self) -> nn.Module:
        s = self.model_config
        kind = GatedMLP if "gate" in s.tensors.mlp else MLP
        return kind(s.d_ff, type(self).activation, s.mlp_bias)

    def make_norm(self) -> nn.Module:
        return self._norm()()

    def _norm(self) -> Callable[..., nn.Module]:
        return partial(RMSNorm, self.model_config.norm_epsilon)


class LayerNormDecoder(RotaryDecoder):
    """With layer norms in place of RMS norms."""

    def _norm(self) -> Callable[..., nn.Module]:
        return partial(LayerNorm, self.model_config.norm_epsilon, self.model_config.tensors.norm_bias)


def fields(c: dict[str, Any], epsilon: str = "rms_norm_eps", **defaults: Any) -> dict[str, Any]:
    """Returns the fields of a `RotaryConfig` that a `config.json` says alike for all families.

    Args:
      epsilon: the option that holds the norms' epsilon.
      defaults: transformers' defaults of the family.
    """
    c = {**defaults, **{name: value for name, value in c.items() if value is not None or name not in defaults}}
    heads, rope, positions = c["num_attention_heads"], rope_parameters(c), c.get("max_position_embeddings", 2048)
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    part = rope.get("partial_rotary_factor") or c.get("partial_rotary_factor") or 1.0
    return dict(
        vocab_size=c["vocab_size"],
        layers=c["num_hidden_layers"],
        d_model=c["hidden_size"],
        heads=heads,
        kv_heads=c.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        d_ff=c["intermediate_size"],
        norm_epsilon=c.get(epsilon, 1e-6),
        tie_embeddings=c.get("tie_word_embeddings", False),
        **end_ids(c, 2),
        bos_id=first_id(c.get("bos_token_id")),
        pad_id=first_id(c.get("pad_token_id"), 0),
        max_positions=rotary_context(rope, positions),
        rope_base=float(rope["rope_theta"]),
        rope_scaling=rotary_scaling(rope, positions),
        rotary_dims=0 if part == 1 else int(head_dim * part),
    )


def sizes(
    kind: str, layers: int, width: int, heads: int, kv_heads: int, inner: int, vocabulary: int, **options: Any
) -> dict[str, Any]:
    """Returns a `config.json` of a known size."""
    shape = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv_heads)
    return {"model_type": kind, **shape, "intermediate_size": inner, "vocab_size": vocabulary, **options}


def mlp(s: RotaryConfig, names: Names, path: str) -> Tree:
    """Returns the MLP of the layer whose tensors' names start with `path`."""
    t, e, f = s.tensors, s.d_model, s.d_ff

    def weights(name: str, outputs: int, inputs: int) -> Tree:
        bias = {"bias": names(f"{path}{name}.bias", outputs)} if s.mlp_bias else {}
        return {"kernel": linear(names(f"{path}{name}.weight", outputs, inputs)), **bias}

    if not t.gate_up:
        return {ours: weights(name, *((e, f) if ours == "down" else (f, e))) for ours, name in t.mlp.items()}
    gate, up = _parts(names(f"{path}{t.gate_up}.weight", 2 * f, e), (f, f))
    down = weights(t.mlp["down"], e, f)
    return {"gate": {"kernel": linear(gate)}, "up": {"kernel": linear(up)}, "down": down}


def parameters(model_config: RotaryConfig, names: Names, inner: Callable[[Any, Names, str], Tree] = mlp) -> Tree:
    """Returns the parameter tree; `inner` returns the MLP of a layer."""
    s, t = model_config, model_config.tensors

    def layer(i: int) -> Tree:
        path = f"layers.{i}."
        one = s.parallel  # attention and MLP then share a norm
        used = {ours: theirs for ours, theirs in t.norms.items() if not (one and ours == "mlp_norm")}
        norms = {ours: _norm(t, names, path + theirs, s.d_model) for ours, theirs in used.items()}
        return {**norms, "attention": _attention(s, names, path), "mlp": inner(s, names, path)}

    return {
        "embedding": {"tokens": embedding(s, names, "embed_tokens.weight")},
        "layers": stacked(s.layers, layer),
        "final_norm": _norm(t, names, t.final, s.d_model),
        **head(s, names, "embed_tokens.weight", bias=s.head_bias),
    }


def _norm(t: Tensors, names: Names, name: str, *shape: int) -> Tree:
    scale = names(f"{name}.weight", *shape)
    scale = shifted(scale, t.norm_offset) if t.norm_offset else scale
    return {"scale": scale, **({"bias": names(f"{name}.bias", *shape)} if t.norm_bias else {})}


def _attention(s: RotaryConfig, names: Names, path: str) -> Tree:
    t, e, k, d, g = s.tensors, s.d_model, s.kv_heads, s.head_dim, s.heads // s.kv_heads
    counts = (k * g * d, k * d, k * d)

    def qkv(kind: str, *inner: int) -> Leaf:
        """[K, G+2, D, ...]: for each key-value head its queries, its key and its value."""
        if t.qkv:
            parts = _parts(names(f"{path}{t.qkv}.{kind}", sum(counts), *inner), counts)
        else:
            parts = [names(f"{path}self_attn.{p}_proj.{kind}", n, *inner) for p, n in zip("qkv", counts, strict=True)]
        return concatenate([split(p, 0, (k, n, d)) for p, n in zip(parts, (g, 1, 1), strict=True)], 1)

    out = split(names(f"{path}{t.out}.weight", e, k * g * d), 1, (k, g, d))
    tree: Tree = {
        "qkv": {"kernel": transpose(qkv("weight", e), (3, 0, 1, 2))},
        "out": {"kernel": transpose(out, (1, 2, 3, 0))},
    }
    if s.qkv_bias:
        tree["qkv"]["bias"] = qkv("bias")
    if s.out_bias:
        tree["out"]["bias"] = names(f"{path}{t.out}.bias", e)
    if t.sinks:
        tree["sinks"] = split(names(path + t.sinks, k * g), 0, (k, g))
    if s.normed_heads:
        for part, theirs in zip(("query", "key"), t.head_norms, strict=True):
            tree[f"{part}_norm"] = _head_norm(s, names, path + theirs, g if part == "query" else 1)
    return tree


def _head_norm(s: RotaryConfig, names: Names, name: str, groups: int) -> Tree:
    """Returns the norm of queries or keys, of which a key-value head has so many."""
    heads, d = (s.kv_heads, groups) if groups > 1 else (s.kv_heads,), s.head_dim
    count = s.kv_heads * groups
    if s.whole_norm:
        return {"scale": split(names(f"{name}.weight", count * d), 0, (*heads, d))}
    if not s.own_norms:
        return _norm(s.tensors, names, name, d)
    if f"{name}.weight" in names:
        return {"scale": split(names(f"{name}.weight", count, d), 0, heads)}
    return {"scale": split(stack([names(f"{name}.norms.{i}.weight", d) for i in range(count)]), 0, heads)}


def _parts(leaf: Leaf, counts: tuple[int, ...]) -> list[Leaf]:
    """Cuts a leaf's rows."""
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [narrowed(leaf, 0, end - count, end) for end, count in zip(ends, counts, strict=True)]


def modules(model_config: RotaryConfig) -> list[Module]:
    """Returns the modules of transformers' network; those that it fuses share a name."""
    s, t = model_config, model_config.tensors
    e, f, k, d = s.d_model, s.mlp_width, s.kv_heads, s.head_dim
    place_of, base = (("layers",), s.layers), "model.layers.{}."
    found = []
    for slot, (part, groups) in enumerate((("query", s.heads // k), ("key", 1), ("value", 1))):
        name, place = (t.qkv, slot) if t.qkv else (f"self_attn.{part[0]}_proj", None)
        found.append(module(place_of, f"attention/qkv/{part}", base + name, e, (k, groups, d), place))
    found.append(module(place_of, "attention/out", base + t.out, s.heads * d, (e,)))
    for slot, (ours, theirs) in enumerate(t.mlp.items()):
        inputs, outputs = (f, e) if ours.endswith("down") else (e, f)
        name, place = (theirs, None) if theirs else (t.gate_up, slot)
        found.append(module(place_of, f"mlp/{ours}", base + name, inputs, (outputs,), place))
    return found


def family(
    title: str,
    model_config: type[RotaryConfig],
    network: type[RotaryDecoder],
    read: Callable[[dict[str, Any]], ModelConfig],
    known: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    kinds: tuple[str, ...] = (),
    gguf: Mapping[str, Gguf] = MappingProxyType({}),
    adapters: tuple[str, str, str] | None = None,
    inner: Callable[[Any, Names, str], Tree] = mlp,
) -> Family:
    """Returns the row of a family whose tensors are named as Llama's.

    Args:
      read: reads the `config.json` of each `model_type` in `kinds`; by default, that of the family's name.
      known, gguf, adapters: as in `Family`.
      inner: the mapping of a layer's MLP.
    """
    return Family(
        title=title,
        model_config=model_config,
        network=network,
        readers=dict.fromkeys(kinds or (model_config.family,), read),
        parameters=partial(parameters, inner=inner),
        modules=modules,
        anchor="embed_tokens.weight",
        base="model.",
        known=known,
        gguf=gguf,
        adapters=adapters,
    )
