"""BART (Lewis et al. 2020): learned positions, a norm after each sublayer, biases everywhere."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prefix_jax.errors import UserError
from prefix_jax.models.attention import attention_scale
from prefix_jax.models.encoder_decoder import EncoderDecoder, Side
from prefix_jax.models.families.family import Family, Module, attention_modules, module
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import MLP, Block, CrossAttention, LayerNorm, SelfAttention
from prefix_jax.models.leaves import Leaf, from_array, merge, split, stack, transpose
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import COPIES, Names, Tree, embedding, head, linear, only_copies, stacked


@dataclass(frozen=True, kw_only=True)
class BartConfig(ModelConfig):
    family: ClassVar[str] = "bart"
    hashed_as: ClassVar[str] = "BartSpec"
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
    def decoder_start(self) -> int:
        return self.decoder_start_id

    @property
    def context_length(self) -> int:
        """Returns the maximum number of positions, for the encoder and the decoder separately."""
        return self.max_positions


# The first rows of the position tables are never read: a historical padding offset.
UNUSED_POSITIONS = 2


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {"gelu": gelu, "relu": jax.nn.relu}


class Positions(nn.Module):
    """Adds learned positions to embeddings and normalises the sum."""

    model_config: BartConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch T E"], positions: Array) -> Float[Array, "*batch T E"]:
        rows = (self.model_config.max_positions + UNUSED_POSITIONS, self.model_config.d_model)
        table = self.param("table", nn.initializers.normal(0.02), rows)
        # Padding columns may exceed the table, as in `layers.Embedding`.
        moved = x + jnp.take(table, positions + UNUSED_POSITIONS, axis=0, mode="clip").astype(x.dtype)
        return LayerNorm(self.model_config.norm_epsilon, name="norm")(moved)


class BartSide(Side):
    model_config: BartConfig

    def make_block(self) -> nn.Module:
        s, scale = self.model_config, attention_scale(self.model_config.head_dim)
        cross = CrossAttention(s.heads, s.head_dim, s.d_model, scale, bias=True) if self.decoder else None
        return Block(
            attention=SelfAttention(s.heads, 1, s.head_dim, scale, bias=True, out_bias=True),
            mlp=MLP(s.d_ff if self.decoder else s.encoder_d_ff, ACTIVATIONS[s.activation], bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
            cross=cross,
            norms="after",
        )

    def setup(self) -> None:
        super().setup()
        self.positions = Positions(self.model_config)

    def begin(self, x: Float[Array, "*batch T E"], positions: Array) -> Float[Array, "*batch T E"]:
        return self.positions(x, positions)


class Bart(EncoderDecoder):
    model_config: BartConfig
    side: ClassVar[type[Side]] = BartSide
    biases: ClassVar[bool] = True

    @property
    def embedding_scale(self) -> float:
        return self.model_config.d_model**0.5 if self.model_config.scale_embeddings else 1.0

    def setup(self) -> None:
        super().setup()
        self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (self.model_config.vocab_size,))

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        return super().logits(hidden) + self.logits_bias.astype(jnp.float32)


def read(c: dict[str, Any]) -> BartConfig:
    refuse(c, "activation_function", ("gelu", "relu"))
    heads = c["decoder_attention_heads"]
    if c["encoder_attention_heads"] != heads:
        raise UserError(
            f"this bart model has {c['encoder_attention_heads']} heads in the encoder and {heads} in the decoder, "
            "which is not supported"
        )
    return BartConfig(
        vocab_size=c["vocab_size"],
        layers=c["decoder_layers"],
        d_model=c["d_model"],
        heads=heads,
        kv_heads=heads,
        head_dim=c["d_model"] // heads,
        d_ff=c["decoder_ffn_dim"],
        norm_epsilon=1e-5,
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 2),
        bos_id=first_id(c.get("bos_token_id"), 0),
        pad_id=first_id(c.get("pad_token_id"), 1),
        encoder_depth=c["encoder_layers"],
        encoder_d_ff=c["encoder_ffn_dim"],
        activation=c.get("activation_function", "gelu"),
        max_positions=c.get("max_position_embeddings", 1024),
        decoder_start_id=first_id(c.get("decoder_start_token_id"), 2),
        scale_embeddings=c.get("scale_embedding", False),
    )


def parameters(model_config: BartConfig, names: Names) -> Tree:
    only_copies(model_config, names, *COPIES)
    return {
        "embedding": {"tokens": embedding(model_config, names, "shared.weight", *COPIES)},
        "encoder": _side(model_config, names, "encoder", model_config.encoder_layers, model_config.encoder_d_ff),
        "decoder": _side(model_config, names, "decoder", model_config.layers, model_config.d_ff),
        "logits_bias": _logits_bias(model_config, names),
        **head(model_config, names, "shared.weight"),
    }


def _logits_bias(model_config: BartConfig, names: Names) -> Leaf:
    """Returns the logits bias: zeros if the model was saved without its head, which has this buffer."""
    if "final_logits_bias" not in names:
        return from_array(np.zeros(model_config.vocab_size, np.float32))
    return merge(names("final_logits_bias", 1, model_config.vocab_size), 0, 2)


def _side(model_config: BartConfig, names: Names, side: str, layers: int, f: int) -> Tree:
    e, h, d = model_config.d_model, model_config.heads, model_config.head_dim

    def norm(path: str) -> Tree:
        return {"scale": names(f"{path}.weight", e), "bias": names(f"{path}.bias", e)}

    def fused(path: str, parts: str) -> Tree:
        """Returns a kernel `[E, H, parts, D]` and the bias of its outputs."""
        kernels = [split(names(f"{path}.{p}_proj.weight", h * d, e), 0, (h, d)) for p in parts]
        biases = [split(names(f"{path}.{p}_proj.bias", h * d), 0, (h, d)) for p in parts]
        return {"kernel": transpose(stack(kernels, 1), (3, 0, 1, 2)), "bias": stack(biases, 1)}

    def out(path: str) -> Tree:
        kernel = transpose(split(names(f"{path}.out_proj.weight", e, h * d), 1, (h, 1, d)), (1, 2, 3, 0))
        return {"kernel": kernel, "bias": names(f"{path}.out_proj.bias", e)}

    def affine(path: str, inputs: int, outputs: int) -> Tree:
        return {"kernel": linear(names(f"{path}.weight", outputs, inputs)), "bias": names(f"{path}.bias", outputs)}

    def layer(i: int) -> Tree:
        path = f"{side}.layers.{i}"
        attention, cross = f"{path}.self_attn", f"{path}.encoder_attn"
        tree = {
            "attention": {"qkv": fused(attention, "qkv"), "out": out(attention)},
            "attention_norm": norm(f"{path}.self_attn_layer_norm"),
            "mlp": {"up": affine(f"{path}.fc1", e, f), "down": affine(f"{path}.fc2", f, e)},
            "mlp_norm": norm(f"{path}.final_layer_norm"),
        }
        if side == "decoder":
            parts = {"query": fused(cross, "q"), "key_value": fused(cross, "kv"), "out": out(cross)}
            tree |= {"cross": parts, "cross_norm": norm(f"{path}.encoder_attn_layer_norm")}
        return tree

    rows = model_config.max_positions + 2
    return {
        "positions": {
            "table": names(f"{side}.embed_positions.weight", rows, e),
            "norm": norm(f"{side}.layernorm_embedding"),
        },
        "layers": stacked(layers, layer),
    }


def modules(model_config: BartConfig) -> list[Module]:
    return [found for side in ("encoder", "decoder") for found in _side_modules(model_config, side)]


def _side_modules(model_config: BartConfig, side: str) -> list[Module]:
    encoder = side == "encoder"
    stack = ((side, "layers"), model_config.encoder_layers if encoder else model_config.layers)
    path, width = f"model.{side}.layers.{{}}", model_config.encoder_d_ff if encoder else model_config.d_ff
    found = attention_modules(model_config, stack, "attention", f"{path}.self_attn.{{}}_proj", "out")
    if not encoder:
        found += attention_modules(model_config, stack, "cross", f"{path}.encoder_attn.{{}}_proj", "out")
    up = module(stack, "mlp/up", f"{path}.fc1", model_config.d_model, (width,))
    return [*found, up, module(stack, "mlp/down", f"{path}.fc2", width, (model_config.d_model,))]


def sizes(layers: int, width: int, heads: int, inner: int) -> dict[str, Any]:
    depths = dict(encoder_layers=layers, decoder_layers=layers, d_model=width, vocab_size=50265)
    sides = {f"{side}_attention_heads": heads for side in ("encoder", "decoder")}
    inners = {f"{side}_ffn_dim": inner for side in ("encoder", "decoder")}
    return {"model_type": "bart", **depths, **sides, **inners, "max_position_embeddings": 1024}


FAMILY = Family(
    title="BART",
    model_config=BartConfig,
    network=Bart,
    readers={"bart": read},
    parameters=parameters,
    modules=modules,
    anchor="encoder.layernorm_embedding.weight",
    base="model.",
    known={"bart-base": sizes(6, 768, 12, 3072), "bart-large": sizes(12, 1024, 16, 4096)},
)
