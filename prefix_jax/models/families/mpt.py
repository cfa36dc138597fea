"""MPT (MosaicML 2023): ALiBi, layer norms and projections without biases.

A prefix's slots have no position bias unless they have distances, as in `bloom.py`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.family import Family, Module, module
from prefix_jax.models.families.gpt_neox import attention_out
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import ACTIVATIONS, MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.leaves import split, transpose
from prefix_jax.models.model_config import Alibi, ModelConfig
from prefix_jax.models.parameters import Names, Tree, embedding, head, linear, stacked


@dataclass(frozen=True, kw_only=True)
class MptConfig(ModelConfig):
    family: ClassVar[str] = "mpt"
    positions: ClassVar[str] = "relative"
    max_positions: int
    query_scale: float
    clip: float | None

    @property
    def context_length(self) -> int:
        return self.max_positions

    @property
    def alibi(self) -> Alibi:
        return Alibi(slopes_of(self.heads))


def slopes_of(heads: int) -> tuple[float, ...]:
    """Returns a geometric series down to 2^-8. Where `heads` is no power of two, it is that of the next one: first
    every other slope and then the rest, as far as there are heads.
    """
    most = 2 ** math.ceil(math.log2(heads))
    series = [2.0 ** (-8 * (i + 1) / most) for i in range(most)]
    return tuple(series if most == heads else (series[1::2] + series[::2])[:heads])


class Mpt(DecoderOnly):
    model_config: MptConfig

    def make_block(self) -> nn.Module:
        s = self.model_config
        return Block(
            attention=SelfAttention(s.kv_heads, 1, s.head_dim, s.query_scale, clip=s.clip),
            mlp=MLP(s.d_ff, ACTIVATIONS["gelu"]),
            norm=partial(LayerNorm, s.norm_epsilon, offset=False),
        )

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.model_config.norm_epsilon, offset=False)


def read(c: dict[str, Any]) -> MptConfig:
    attention = {"model_type": "mpt", **(c.get("attn_config") or {})}
    # transformers ignores these; where they are set, it does not compute what the model was trained for.
    for option, allowed in (
        ("expansion_ratio", (4,)), ("no_bias", (True,)), ("logit_scale", (None,)),
        ("norm_type", ("low_precision_layernorm", "layernorm")),
    ):  # fmt: skip
        refuse(c, option, allowed)
    for option, allowed in (
        ("attn_type", ("multihead_attention",)), ("alibi", (True,)), ("alibi_bias_max", (8,)), ("prefix_lm", (False,)),
        ("qk_ln", (False,)), ("attn_uses_sequence_id", (False,)),
    ):  # fmt: skip
        refuse(attention, option, allowed)
    d_model, heads = c["d_model"], c["n_heads"]
    return MptConfig(
        vocab_size=c["vocab_size"],
        layers=c["n_layers"],
        d_model=d_model,
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=4 * d_model,
        norm_epsilon=c.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 0),
        bos_id=first_id(c.get("bos_token_id"), 0),
        pad_id=first_id(c.get("pad_token_id"), 1),
        max_positions=c.get("max_seq_len", 2048),
        query_scale=attention.get("softmax_scale") or attention_scale(d_model // heads),
        clip=attention.get("clip_qkv") or None,
    )


def parameters(model_config: MptConfig, names: Names) -> Tree:
    e, f, k, d = model_config.d_model, model_config.d_ff, model_config.heads, model_config.head_dim

    def layer(i: int) -> Tree:
        path = f"blocks.{i}"
        qkv = split(names(f"{path}.attn.Wqkv.weight", 3 * k * d, e), 0, (3, k, d))
        return {
            "attention_norm": {"scale": names(f"{path}.norm_1.weight", e)},
            "attention": {
                "qkv": {"kernel": transpose(qkv, (3, 1, 0, 2))},
                "out": attention_out(model_config, names, f"{path}.attn.out_proj", False),
            },
            "mlp_norm": {"scale": names(f"{path}.norm_2.weight", e)},
            "mlp": {
                "up": {"kernel": linear(names(f"{path}.ffn.up_proj.weight", f, e))},
                "down": {"kernel": linear(names(f"{path}.ffn.down_proj.weight", e, f))},
            },
        }

    return {
        "embedding": {"tokens": embedding(model_config, names, "wte.weight")},
        "layers": stacked(model_config.layers, layer),
        "final_norm": {"scale": names("norm_f.weight", e)},
        **head(model_config, names, "wte.weight"),
    }


def modules(model_config: MptConfig) -> list[Module]:
    e, k, d = model_config.d_model, model_config.heads, model_config.head_dim
    stack, base = (("layers",), model_config.layers), "transformer.blocks.{}"
    parts = enumerate(("query", "key", "value"))
    return [
        *(module(stack, f"attention/qkv/{part}", f"{base}.attn.Wqkv", e, (k, 1, d), slot) for slot, part in parts),
        module(stack, "attention/out", f"{base}.attn.out_proj", k * d, (e,)),
        module(stack, "mlp/up", f"{base}.ffn.up_proj", e, (model_config.d_ff,)),
        module(stack, "mlp/down", f"{base}.ffn.down_proj", model_config.d_ff, (e,)),
    ]


def sizes(layers: int, width: int, heads: int, window: int) -> dict[str, Any]:
    shape = dict(n_layers=layers, d_model=width, n_heads=heads, vocab_size=50432, max_seq_len=window)
    return {"model_type": "mpt", **shape, "attn_config": {"alibi": True}}


FAMILY = Family(
    title="MPT",
    model_config=MptConfig,
    network=Mpt,
    readers={"mpt": read},
    parameters=parameters,
    modules=modules,
    anchor="wte.weight",
    base="transformer.",
    known={"mpt-7b": sizes(32, 4096, 32, 2048), "mpt-30b": sizes(48, 7168, 64, 8192)},
)
