"""T5 1.0 (ReLU, tied), 1.1 and FLAN (gated, untied): Raffel et al. 2020.

The relative position bias is computed once, outside the layers, between the columns of real tokens only; prefix
columns have none, and absolute positions are unused.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prefix_jax.errors import UserError
from prefix_jax.models.encoder_decoder import EncoderDecoder, Side
from prefix_jax.models.families.family import Family, Gguf, Module, attention_modules, module
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import MLP, Block, CrossAttention, GatedMLP, RMSNorm, SelfAttention
from prefix_jax.models.leaves import Leaf, split, stack, transpose
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import COPIES, Names, Tree, embedding, head, linear, only_copies, stacked

_ACTIVATIONS = {"relu": jax.nn.relu, "gelu": gelu, "silu": jax.nn.silu}


@dataclass(frozen=True, kw_only=True)
class T5Config(ModelConfig):
    family: ClassVar[str] = "t5"
    hashed_as: ClassVar[str] = "T5Spec"
    positions: ClassVar[str] = "relative"
    # Whether every layer has a relative bias of its own.
    layer_bias: ClassVar[bool] = False
    encoder_depth: int
    gated: bool
    # "relu", "gelu" (tanh-approximated) or "silu".
    activation: str
    buckets: int
    max_distance: int
    decoder_start_id: int
    # Whether hidden states are multiplied by d_model ** -0.5 before the vocabulary: T5 1.0, with tied embeddings.
    scale_outputs: bool

    @property
    def encoder_layers(self) -> int:
        return self.encoder_depth

    @property
    def decoder_start(self) -> int:
        return self.decoder_start_id


def relative_buckets(distance: Int[Array, "... T S"], bidirectional: bool, buckets: int, furthest: int) -> Array:
    """Returns the bucket of each distance (key column minus query column): exact when near, logarithmic when far."""
    side = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        side = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / jnp.log(furthest / exact)
    far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return side + jnp.where(distance < exact, distance, far)


def bias_of(table: Float[Array, "buckets H"], buckets: Int[Array, "*rows T S"]) -> Float[Array, "*rows H 1 T S"]:
    """Returns the bias of the logits from each head's bias of a bucket."""
    return jnp.moveaxis(jnp.take(table.astype(jnp.float32), buckets, axis=0), -1, -3)[..., None, :, :]


class T5Side(Side):
    model_config: T5Config

    def make_attention(self) -> nn.Module:
        return SelfAttention(self.model_config.heads, 1, self.model_config.head_dim, scale=1.0)  # logits are not scaled

    def make_block(self) -> nn.Module:
        s = self.model_config
        return Block(
            attention=self.make_attention(),
            mlp=(GatedMLP if s.gated else MLP)(s.d_ff, _ACTIVATIONS[s.activation]),
            norm=partial(RMSNorm, s.norm_epsilon),
            cross=CrossAttention(s.heads, s.head_dim, s.d_model) if self.decoder else None,
        )

    def setup(self) -> None:
        super().setup()
        s = self.model_config
        if not s.layer_bias:
            self.relative_bias = self.param("relative_bias", nn.initializers.normal(0.1), (s.buckets, s.heads))
        self.final_norm = RMSNorm(s.norm_epsilon)

    def buckets(self, queries: Int[Array, "*rows T"], keys: Int[Array, "... S"]) -> Int[Array, "*rows T S"]:
        distance = keys[..., None, :] - queries[..., :, None]
        return relative_buckets(distance, not self.decoder, self.model_config.buckets, self.model_config.max_distance)

    def bias(self, queries: Int[Array, "*rows T"], keys: Int[Array, "... S"]) -> Array:
        return bias_of(self.relative_bias, self.buckets(queries, keys))

    def end(self, x: Float[Array, "*batch T E"]) -> Float[Array, "*batch T E"]:
        return self.final_norm(x)


class T5(EncoderDecoder):
    model_config: T5Config
    side: ClassVar[type[Side]] = T5Side

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        if self.model_config.scale_outputs:
            hidden = hidden * jnp.asarray(self.model_config.d_model**-0.5, hidden.dtype)
        return super().logits(hidden)


def read(c: dict[str, Any]) -> T5Config:
    # transformers' MT5 never scales, regardless of its configuration.
    scaled = c["model_type"] != "mt5" and c.get("scale_decoder_outputs", c.get("tie_word_embeddings", True))
    return T5Config(**sizes_of(c), scale_outputs=scaled)


def sizes_of(c: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a description, all but `scale_outputs`."""
    projection = c.get("feed_forward_proj", "relu")
    gated = projection.startswith("gated-")
    activation = projection.removeprefix("gated-").replace("gelu_new", "gelu")
    if activation not in ("relu", "gelu", "silu") or (activation == "gelu" and not gated):
        raise UserError(f'feed_forward_proj "{projection}" is not supported (only relu, gated-gelu, gated-silu)')
    refuse(c, "dense_act_fn", (activation.replace("gelu", "gelu_new"),))
    return dict(
        vocab_size=c["vocab_size"],
        layers=c.get("num_decoder_layers") or c["num_layers"],
        d_model=c["d_model"],
        heads=c["num_heads"],
        kv_heads=c["num_heads"],
        head_dim=c["d_kv"],
        d_ff=c["d_ff"],
        norm_epsilon=c.get("layer_norm_epsilon", 1e-6),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 1),
        bos_id=None,
        pad_id=first_id(c.get("pad_token_id"), 0),
        encoder_depth=c["num_layers"],
        gated=gated,
        activation=activation,
        buckets=c.get("relative_attention_num_buckets", 32),
        max_distance=c.get("relative_attention_max_distance", 128),
        decoder_start_id=first_id(c.get("decoder_start_token_id"), 0),
    )


def parameters(model_config: T5Config, names: Names) -> Tree:
    only_copies(model_config, names, *COPIES)
    return {
        "embedding": {"tokens": embedding(model_config, names, "shared.weight", *COPIES)},
        "encoder": _side(model_config, names, "encoder", model_config.encoder_layers),
        "decoder": _side(model_config, names, "decoder", model_config.layers),
        **head(model_config, names, "shared.weight"),
    }


def _side(model_config: T5Config, names: Names, side: str, layers: int) -> Tree:
    e, h, d = model_config.d_model, model_config.heads, model_config.head_dim

    def kernel(path: str, parts: str) -> Leaf:
        """Returns [E, H, parts, D]."""
        leaves = [split(names(f"{path}.{p}.weight", h * d, e), 0, (h, d)) for p in parts]
        return transpose(stack(leaves, 1), (3, 0, 1, 2))

    def out(path: str) -> Tree:
        return {"kernel": transpose(split(names(f"{path}.o.weight", e, h * d), 1, (h, 1, d)), (1, 2, 3, 0))}

    def bias(i: int) -> Leaf:
        name = f"{side}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight"
        return names(name, model_config.buckets, h)

    def layer(i: int) -> Tree:
        block = f"{side}.block.{i}.layer"
        attention, cross = f"{block}.0.SelfAttention", f"{block}.1.EncDecAttention"
        last = 1 if side == "encoder" else 2
        tree = {
            "attention_norm": {"scale": names(f"{block}.0.layer_norm.weight", e)},
            "attention": {"qkv": {"kernel": kernel(attention, "qkv")}, "out": out(attention)},
            "mlp_norm": {"scale": names(f"{block}.{last}.layer_norm.weight", e)},
            "mlp": _mlp(model_config, names, f"{block}.{last}.DenseReluDense"),
        }
        if model_config.layer_bias:
            tree["attention"]["relative_bias"] = bias(i)
        if side == "decoder":
            tree["cross_norm"] = {"scale": names(f"{block}.1.layer_norm.weight", e)}
            tree["cross"] = {
                "query": {"kernel": kernel(cross, "q")},
                "key_value": {"kernel": kernel(cross, "kv")},
                "out": out(cross),
            }
        return tree

    return {
        **({} if model_config.layer_bias else {"relative_bias": bias(0)}),
        "layers": stacked(layers, layer),
        "final_norm": {"scale": names(f"{side}.final_layer_norm.weight", e)},
    }


def _mlp(model_config: T5Config, names: Names, path: str) -> Tree:
    e, f = model_config.d_model, model_config.d_ff
    down = {"kernel": linear(names(f"{path}.wo.weight", e, f))}
    if not model_config.gated:
        return {"up": {"kernel": linear(names(f"{path}.wi.weight", f, e))}, "down": down}
    gate, up = ({"kernel": linear(names(f"{path}.wi_{j}.weight", f, e))} for j in (0, 1))
    return {"gate": gate, "up": up, "down": down}


def modules(model_config: T5Config) -> list[Module]:
    return [found for side in ("encoder", "decoder") for found in _side_modules(model_config, side)]


def _side_modules(model_config: T5Config, side: str) -> list[Module]:
    stack = ((side, "layers"), model_config.encoder_layers if side == "encoder" else model_config.layers)
    block, mlp = f"{side}.block.{{}}.layer", {"gate": "wi_0", "up": "wi_1"} if model_config.gated else {"up": "wi"}
    found = attention_modules(model_config, stack, "attention", f"{block}.0.SelfAttention.{{}}", "o")
    if side == "decoder":
        found += attention_modules(model_config, stack, "cross", f"{block}.1.EncDecAttention.{{}}", "o")
    inner = f"{block}.{1 if side == 'encoder' else 2}.DenseReluDense"
    found += [
        module(stack, f"mlp/{ours}", f"{inner}.{name}", model_config.d_model, (model_config.d_ff,))
        for ours, name in mlp.items()
    ]
    return [*found, module(stack, "mlp/down", f"{inner}.wo", model_config.d_ff, (model_config.d_model,))]


def sizes(layers: int, width: int, heads: int, head: int, inner: int, gated: bool = False) -> dict[str, Any]:
    sizes = dict(num_layers=layers, d_model=width, num_heads=heads, d_kv=head, d_ff=inner, vocab_size=32128)
    form = dict(feed_forward_proj="gated-gelu" if gated else "relu", tie_word_embeddings=not gated)
    return {"model_type": "t5", **sizes, **form, "decoder_start_token_id": 0}


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    layers = get("block_count")
    return {
        "d_model": get("embedding_length"),
        "d_kv": get("attention.key_length"),
        "d_ff": get("feed_forward_length"),
        "num_heads": get("attention.head_count"),
        "num_layers": layers,
        "num_decoder_layers": get("decoder_block_count", layers),
        "layer_norm_epsilon": get("attention.layer_norm_rms_epsilon", get("attention.layer_norm_epsilon", 1e-6)),
        "relative_attention_num_buckets": get("attention.relative_buckets_count", 32),
        "decoder_start_token_id": get("decoder_start_token_id", 0),
    }


def _gguf(names: Container[str]) -> Gguf:
    """Returns the storage of a file with tensors of these names: of T5 1.0, T5 1.1 or umT5."""
    gated = "enc.blk.0.ffn_gate.weight" in names
    parts = {
        f"{side}.{ours}": f"{stack}.block.{{}}.layer.{place}"
        for side, stack, last in (("enc", "encoder", 1), ("dec", "decoder", 2))
        for ours, place in (
            ("attn_norm", "0.layer_norm"),
            *((f"attn_{part}", f"0.SelfAttention.{part}") for part in "qkvo"),
            ("attn_rel_b", "0.SelfAttention.relative_attention_bias"),
            ("cross_attn_norm", "1.layer_norm"),
            *((f"cross_attn_{part}", f"1.EncDecAttention.{part}") for part in "qkvo"),
            ("ffn_norm", f"{last}.layer_norm"),
            ("ffn_gate", f"{last}.DenseReluDense.wi_0"),
            ("ffn_up", f"{last}.DenseReluDense.{'wi_1' if gated else 'wi'}"),
            ("ffn_down", f"{last}.DenseReluDense.wo"),
        )
    }
    form = {"feed_forward_proj": "gated-gelu" if gated else "relu"}
    kind = "umt5" if "enc.blk.1.attn_rel_b.weight" in names else "t5"
    return Gguf(kind, parts, lambda get: {**_gguf_options(get), **form}, top=_GGUF_TOP)


_GGUF_TOP = {
    "token_embd": "shared",
    "enc.output_norm": "encoder.final_layer_norm",
    "dec.output_norm": "decoder.final_layer_norm",
    "output": "lm_head",
}
FAMILY = Family(
    title="T5",
    model_config=T5Config,
    network=T5,
    readers={"t5": read, "mt5": read},
    parameters=parameters,
    modules=modules,
    anchor="encoder.final_layer_norm.weight",
    gguf={"t5": Gguf("t5", {}, variant=_gguf)},
    known={
        "t5-small": sizes(6, 512, 8, 64, 2048),
        "t5-base": sizes(12, 768, 12, 64, 3072),
        "t5-large": sizes(24, 1024, 16, 64, 4096),
        "t5-3b": sizes(24, 1024, 32, 128, 16384),
        "t5-11b": sizes(24, 1024, 128, 128, 65536),
        "flan-t5-small": sizes(8, 512, 6, 64, 1024, gated=True),
        "flan-t5-xl": sizes(24, 2048, 32, 64, 5120, gated=True),
        "flan-t5-xxl": sizes(24, 4096, 64, 64, 10240, gated=True),
    },
    adapters=("", "T5ForConditionalGeneration", "t5"),
)
