"""GPTBigCode (Ben Allal et al. 2023), of which StarCoder is one: GPT-2 whose queries share one key and value; its
matrices are torch Linears, fused by key-value head.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.families.family import Family, Module
from prefix_jax.models.families.gpt2 import GPT2, GPT2Config, fields
from prefix_jax.models.families.gpt_neox import attention_out, fused_by_head, fused_modules
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.layers import ACTIVATIONS, MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.parameters import Names, Tree, affine, embedding, head, norm, stacked


@dataclass(frozen=True, kw_only=True)
class GPTBigCodeConfig(GPT2Config):
    family: ClassVar[str] = "gpt_bigcode"
    hashed_as: ClassVar[str] = ""
    activation: str
    scaled: bool


class GPTBigCode(GPT2):
    model_config: GPTBigCodeConfig

    def make_block(self) -> nn.Module:
        s = self.model_config
        groups, scale = s.heads // s.kv_heads, attention_scale(s.head_dim) if s.scaled else 1.0
        return Block(
            attention=SelfAttention(s.kv_heads, groups, s.head_dim, scale, bias=True, out_bias=True),
            mlp=MLP(s.d_ff, ACTIVATIONS[s.activation], bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
        )


def read(c: dict[str, Any]) -> GPTBigCodeConfig:
    refuse(c, "activation_function", ("gelu_pytorch_tanh", *ACTIVATIONS))
    refuse(c, "add_cross_attention", (False,))
    shape = fields(c)
    return GPTBigCodeConfig(
        **{**shape, "kv_heads": 1 if c.get("multi_query", True) else shape["heads"]},
        activation=c.get("activation_function", "gelu_pytorch_tanh"),
        scaled=c.get("scale_attn_weights", True),
    )


def parameters(model_config: GPTBigCodeConfig, names: Names) -> Tree:
    e, f = model_config.d_model, model_config.d_ff

    def layer(i: int) -> Tree:
        path = f"h.{i}"
        return {
            "attention_norm": norm(names, f"{path}.ln_1", e),
            "attention": {
                "qkv": fused_by_head(model_config, names, f"{path}.attn.c_attn", True),
                "out": attention_out(model_config, names, f"{path}.attn.c_proj", True),
            },
            "mlp_norm": norm(names, f"{path}.ln_2", e),
            "mlp": {
                "up": affine(names, f"{path}.mlp.c_fc", e, f),
                "down": affine(names, f"{path}.mlp.c_proj", f, e),
            },
        }

    return {
        "embedding": {
            "tokens": embedding(model_config, names, "wte.weight"),
            "positions": names("wpe.weight", model_config.max_positions, e),
        },
        "layers": stacked(model_config.layers, layer),
        "final_norm": norm(names, "ln_f", e),
        **head(model_config, names, "wte.weight"),
    }


def modules(model_config: GPTBigCodeConfig) -> list[Module]:
    inner = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return fused_modules(model_config, "transformer.h.{}", *inner)


FAMILY = Family(
    title="GPTBigCode",
    model_config=GPTBigCodeConfig,
    network=GPTBigCode,
    readers={"gpt_bigcode": read},
    parameters=parameters,
    modules=modules,
    anchor="wpe.weight",
    base="transformer.",
    known={
        "starcoder": dict(
            model_type="gpt_bigcode", n_layer=40, n_embd=6144, n_head=48, n_inner=24576, vocab_size=49152,
            n_positions=8192,
        ),
    },
)  # fmt: skip
