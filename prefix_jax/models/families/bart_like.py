"""What encoder-decoder families with BART's layers share: a description, a network and a mapping of tensors, of which
a family's file says only what differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prefix_jax.errors import UserError
from prefix_jax.models.attention import attention_scale
from prefix_jax.models.encoder_decoder import EncoderDecoder, Side
from prefix_jax.models.families.family import Family, Module, attention_modules, module
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import ACTIVATIONS, MLP, Block, CrossAttention, LayerNorm, SelfAttention
from prefix_jax.models.leaves import Leaf, from_array, merge, split, stack, transpose
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import COPIES, Names, Tree, affine, embedding, head, norm, only_copies, stacked


@dataclass(frozen=True, kw_only=True)
class BartLikeConfig(ModelConfig):
    """Sizes, and as class variables the form of a family's network.

    Attributes:
      norms: where the norms of a sublayer are, as in `Block`.
      embedding_norm: what is normalised before the first layer: the sum of embeddings and positions, the same but of
        the decoder the embeddings alone ("decoder tokens"), or nothing.
      final_norm: whether a norm follows the last layer.
      sines: fixed positions: sines whose frequencies fall from 1 towards 1/10000, reached ("closed", as in
        tensor2tensor) or not ("open", Vaswani et al. 2017); "": a learned table.
      logits_bias: whether logits have a bias.
      scaled_outside: whether transformers' encoder scales embeddings outside their table.
    """

    positions: ClassVar[str] = "learned"
    norms: ClassVar[Literal["before", "after"]] = "after"
    embedding_norm: ClassVar[Literal["sum", "decoder tokens", "none"]] = "sum"
    final_norm: ClassVar[bool] = False
    sines: ClassVar[Literal["", "open", "closed"]] = ""
    logits_bias: ClassVar[bool] = True
    scaled_outside: ClassVar[bool] = False
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
    def decoder_start(self) -> int:
        return self.decoder_start_id

    @property
    def context_length(self) -> int:
        """Returns the maximum number of positions, for the encoder and the decoder separately."""
        return self.max_positions

    @property
    def given_scale(self) -> float | None:
        return None if self.scaled_outside and self.scale_embeddings else 1.0

    @property
    def first_position(self) -> int:
        """Returns the row of the position table at which a text begins; those before it stand for padding."""
        return 0


def sinusoid(positions: Int[Array, "*batch T"], width: int, closed: bool) -> Float[Array, "*batch T E"]:
    """Returns the sines of positions, then their cosines."""
    half = width // 2 if closed else -(-width // 2)
    steps = np.arange(half) / (half - 1) if closed else 2 * np.arange(half) / width
    angles = positions[..., None].astype(jnp.float32) * (10000.0**-steps).astype(np.float32)
    both = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)[..., : width // 2]], axis=-1)
    return jnp.pad(both, ((0, 0),) * positions.ndim + ((0, width - both.shape[-1]),))


class Positions(nn.Module):
    """Adds positions to embeddings, and normalises what the family normalises."""

    model_config: BartLikeConfig
    decoder: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T E"], positions: Array) -> Float[Array, "*batch T E"]:
        s = self.model_config
        normalise = (lambda x: x) if s.embedding_norm == "none" else LayerNorm(s.norm_epsilon, name="norm")
        if self.decoder and s.embedding_norm == "decoder tokens":
            return normalise(x) + self._rows(positions).astype(x.dtype)
        return normalise(x + self._rows(positions).astype(x.dtype))

    def _rows(self, positions: Array) -> Array:
        s = self.model_config
        if s.sines:
            return sinusoid(positions + s.first_position, s.d_model, s.sines == "closed")
        table = self.param("table", nn.initializers.normal(0.02), (s.max_positions + s.first_position, s.d_model))
        # Padding columns may exceed the table, as in `layers.Embedding`.
        return jnp.take(table, positions + s.first_position, axis=0, mode="clip")


class BartLikeSide(Side):
    model_config: BartLikeConfig

    def make_block(self) -> nn.Module:
        s, scale = self.model_config, attention_scale(self.model_config.head_dim)
        cross = CrossAttention(s.heads, s.head_dim, s.d_model, scale, bias=True) if self.decoder else None
        return Block(
            attention=SelfAttention(s.heads, 1, s.head_dim, scale, bias=True, out_bias=True),
            mlp=MLP(s.d_ff if self.decoder else s.encoder_d_ff, ACTIVATIONS[s.activation], bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
            cross=cross,
            norms=s.norms,
        )

    def setup(self) -> None:
        super().setup()
        self.positions = Positions(self.model_config, self.decoder)
        if self.model_config.final_norm:
            self.final_norm = LayerNorm(self.model_config.norm_epsilon)

    def begin(self, x: Float[Array, "*batch T E"], positions: Array) -> Float[Array, "*batch T E"]:
        return self.positions(x, positions)

    def end(self, x: Float[Array, "*batch T E"]) -> Float[Array, "*batch T E"]:
        return self.final_norm(x) if self.model_config.final_norm else x


class BartLike(EncoderDecoder):
    model_config: BartLikeConfig
    side: ClassVar[type[Side]] = BartLikeSide
    biases: ClassVar[bool] = True

    @property
    def embedding_scale(self) -> float:
        return self.model_config.d_model**0.5 if self.model_config.scale_embeddings else 1.0

    def setup(self) -> None:
        super().setup()
        if self.model_config.logits_bias:
            self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (self.model_config.vocab_size,))

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        logits = super().logits(hidden)
        return logits + self.logits_bias.astype(jnp.float32) if self.model_config.logits_bias else logits


def sizes_of(c: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a description; `c` has the ids that the family has by default."""
    refuse(c, "activation_function", tuple(ACTIVATIONS))
    heads = c["decoder_attention_heads"]
    if c["encoder_attention_heads"] != heads:
        raise UserError(
            f"this {c['model_type']} model has {c['encoder_attention_heads']} heads in the encoder and {heads} in the "
            "decoder, which is not supported"
        )
    return dict(
        vocab_size=c["vocab_size"],
        layers=c["decoder_layers"],
        d_model=c["d_model"],
        heads=heads,
        kv_heads=heads,
        head_dim=c["d_model"] // heads,
        d_ff=c["decoder_ffn_dim"],
        norm_epsilon=1e-5,
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, c["eos_token_id"]),
        bos_id=first_id(c.get("bos_token_id")),
        pad_id=first_id(c["pad_token_id"]),
        encoder_depth=c["encoder_layers"],
        encoder_d_ff=c["encoder_ffn_dim"],
        activation=c.get("activation_function", "gelu"),
        max_positions=c.get("max_position_embeddings", 1024),
        decoder_start_id=first_id(c["decoder_start_token_id"]),
        scale_embeddings=c.get("scale_embedding", False),
    )


def with_defaults(c: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Returns the options of a `config.json`, and those of `defaults` that it leaves out or has as null."""
    return {**c, **{name: value for name, value in defaults.items() if c.get(name) is None}}


def parameters(model_config: BartLikeConfig, names: Names) -> Tree:
    only_copies(model_config, names, *COPIES)
    return {
        "embedding": {"tokens": embedding(model_config, names, "shared.weight", *COPIES)},
        "encoder": _side(model_config, names, "encoder", model_config.encoder_layers, model_config.encoder_d_ff),
        "decoder": _side(model_config, names, "decoder", model_config.layers, model_config.d_ff),
        **({"logits_bias": _logits_bias(model_config, names)} if model_config.logits_bias else {}),
        **head(model_config, names, "shared.weight"),
    }


def _logits_bias(model_config: BartLikeConfig, names: Names) -> Leaf:
    """Returns the logits bias: zeros if the model was saved without its head, which has this buffer."""
    if "final_logits_bias" not in names:
        return from_array(np.zeros(model_config.vocab_size, np.float32))
    return merge(names("final_logits_bias", 1, model_config.vocab_size), 0, 2)


def _side(s: BartLikeConfig, names: Names, side: str, layers: int, f: int) -> Tree:
    e = s.d_model

    def layer(i: int) -> Tree:
        path = f"{side}.layers.{i}"
        tree = {
            "attention": _attention(s, names, f"{path}.self_attn", {"qkv": "qkv"}),
            "attention_norm": norm(names, f"{path}.self_attn_layer_norm", e),
            "mlp": {"up": affine(names, f"{path}.fc1", e, f), "down": affine(names, f"{path}.fc2", f, e)},
            "mlp_norm": norm(names, f"{path}.final_layer_norm", e),
        }
        if side == "decoder":
            cross = _attention(s, names, f"{path}.encoder_attn", {"query": "q", "key_value": "kv"})
            tree |= {"cross": cross, "cross_norm": norm(names, f"{path}.encoder_attn_layer_norm", e)}
        return tree

    tree = {"layers": stacked(layers, layer)}
    if positions := _positions(s, names, side):
        tree["positions"] = positions
    if s.final_norm:
        tree["final_norm"] = norm(names, f"{side}.layer_norm", e)
    return tree


def _attention(s: BartLikeConfig, names: Names, path: str, projections: Mapping[str, str]) -> Tree:
    """Returns the projections of an attention; `projections` has the parts of those before it."""
    e, h, d = s.d_model, s.heads, s.head_dim
    kernel = transpose(split(names(f"{path}.out_proj.weight", e, h * d), 1, (h, 1, d)), (1, 2, 3, 0))
    tree = {"out": {"kernel": kernel, "bias": names(f"{path}.out_proj.bias", e)}}
    for name, parts in projections.items():
        kernels = [split(names(f"{path}.{p}_proj.weight", h * d, e), 0, (h, d)) for p in parts]
        biases = [split(names(f"{path}.{p}_proj.bias", h * d), 0, (h, d)) for p in parts]
        tree[name] = {"kernel": transpose(stack(kernels, 1), (3, 0, 1, 2)), "bias": stack(biases, 1)}
    return tree


def _positions(s: BartLikeConfig, names: Names, side: str) -> Tree:
    name, rows = f"{side}.embed_positions.weight", s.max_positions + s.first_position
    tree: Tree = {} if s.sines else {"table": names(name, rows, s.d_model)}
    if s.sines and name in names:
        _check_sines(s, names(name, rows, s.d_model), name)
    if s.embedding_norm != "none":
        tree["norm"] = norm(names, f"{side}.layernorm_embedding", s.d_model)
    return tree


def _check_sines(s: BartLikeConfig, table: Leaf, name: str) -> None:
    """Raises UserError if a stored table of positions is not the one that is computed here."""
    expected = sinusoid(jnp.arange(s.first_position, table.shape[0]), s.d_model, s.sines == "closed")
    # The table may be stored in 16 bits.
    if not np.allclose(table.all()[s.first_position :].astype(np.float32), expected, atol=1e-2):
        raise UserError(
            f'the checkpoint\'s "{name}" are not the sines of a {s.family} model; trained positions are not supported'
        )


def modules(model_config: BartLikeConfig) -> list[Module]:
    return [found for side in ("encoder", "decoder") for found in _side_modules(model_config, side)]


def _side_modules(model_config: BartLikeConfig, side: str) -> list[Module]:
    encoder = side == "encoder"
    stack = ((side, "layers"), model_config.encoder_layers if encoder else model_config.layers)
    path, width = f"model.{side}.layers.{{}}", model_config.encoder_d_ff if encoder else model_config.d_ff
    found = attention_modules(model_config, stack, "attention", f"{path}.self_attn.{{}}_proj", "out")
    if not encoder:
        found += attention_modules(model_config, stack, "cross", f"{path}.encoder_attn.{{}}_proj", "out")
    up = module(stack, "mlp/up", f"{path}.fc1", model_config.d_model, (width,))
    return [*found, up, module(stack, "mlp/down", f"{path}.fc2", width, (model_config.d_model,))]


def sizes(
    kind: str, layers: int | tuple[int, int], width: int, heads: int, inner: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    """Returns the `config.json` of a known size; `layers` are those of the encoder and of the decoder."""
    depths = layers if isinstance(layers, tuple) else (layers, layers)
    found = {"model_type": kind, "d_model": width, "vocab_size": vocabulary, **more}
    for side, depth in zip(("encoder", "decoder"), depths, strict=True):
        found |= {f"{side}_layers": depth, f"{side}_attention_heads": heads, f"{side}_ffn_dim": inner}
    return found


def family(
    title: str,
    model_config: type[BartLikeConfig],
    readers: Mapping[str, Any],
    known: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> Family:
    """Returns the row of a family; `readers` are by `model_type`."""
    return Family(
        title=title,
        model_config=model_config,
        network=BartLike,
        readers=readers,
        parameters=parameters,
        modules=modules,
        anchor="encoder.layers.0.self_attn.q_proj.weight",
        base="model.",
        known=known,
    )
