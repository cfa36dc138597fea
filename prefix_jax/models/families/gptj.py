"""GPT-J (Wang and Komatsuzaki 2021): parallel attention and MLP; interleaved rotary positions on part of a head."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.family import Family, Module, module
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.leaves import Leaf, concatenate, split, transpose
from prefix_jax.models.model_config import LayerKind, ModelConfig, Rotary
from prefix_jax.models.parameters import Names, Tree, affine, embedding, head, norm, stacked


@dataclass(frozen=True, kw_only=True)
class GPTJConfig(ModelConfig):
    family: ClassVar[str] = "gptj"
    positions: ClassVar[str] = "rotary"
    max_positions: int
    rotary_dims: int

    @property
    def context_length(self) -> int:
        return self.max_positions

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        return (LayerKind(rotary=Rotary(10000.0, dims=self.rotary_dims, interleaved=True)),) * self.layers


class GPTJ(DecoderOnly):
    model_config: GPTJConfig
    head_bias: ClassVar[bool] = True

    def make_block(self) -> nn.Module:
        s = self.model_config
        return Block(
            attention=SelfAttention(s.kv_heads, 1, s.head_dim, attention_scale(s.head_dim), interleaved=True),
            mlp=MLP(s.d_ff, gelu, bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
            norms="parallel",
        )

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.model_config.norm_epsilon)


def read(c: dict[str, Any]) -> GPTJConfig:
    refuse(c, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
    d_model, heads = c["n_embd"], c["n_head"]
    return GPTJConfig(
        vocab_size=c["vocab_size"],
        layers=c["n_layer"],
        d_model=d_model,
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=c.get("n_inner") or 4 * d_model,
        norm_epsilon=c.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", False),
        **end_ids(c, 50256),
        bos_id=first_id(c.get("bos_token_id"), 50256),
        pad_id=first_id(c.get("pad_token_id"), 0),
        max_positions=c.get("n_positions", 2048),
        rotary_dims=c.get("rotary_dim") or 0,
    )


def separate_qkv(model_config: ModelConfig, names: Names, path: str, bias: bool = False) -> Tree:
    """Returns query, key and value from q_proj, k_proj and v_proj, as many heads in each."""
    e, k, d = model_config.d_model, model_config.heads, model_config.head_dim

    def rows(kind: str, *inner: int) -> Leaf:
        return concatenate([split(names(f"{path}.{p}_proj.{kind}", k * d, *inner), 0, (k, 1, d)) for p in "qkv"], 1)

    kernel = transpose(rows("weight", e), (3, 0, 1, 2))
    return {"kernel": kernel, **({"bias": rows("bias")} if bias else {})}


def tree(model_config: GPTJConfig, names: Names, qkv: Callable[[ModelConfig, Names, str], Tree] = separate_qkv) -> Tree:
    """Returns the parameter tree; `qkv` gives query, key and value of an attention's path."""
    e, f, k, d = model_config.d_model, model_config.d_ff, model_config.heads, model_config.head_dim

    def layer(i: int) -> Tree:
        path = f"h.{i}.attn"
        out = split(names(f"{path}.out_proj.weight", e, k * d), 1, (k, 1, d))
        return {
            "attention_norm": norm(names, f"h.{i}.ln_1", e),
            "attention": {
                "qkv": qkv(model_config, names, path),
                "out": {"kernel": transpose(out, (1, 2, 3, 0))},
            },
            "mlp": {"up": affine(names, f"h.{i}.mlp.fc_in", e, f), "down": affine(names, f"h.{i}.mlp.fc_out", f, e)},
        }

    return {
        "embedding": {"tokens": embedding(model_config, names, "wte.weight")},
        "layers": stacked(model_config.layers, layer),
        "final_norm": norm(names, "ln_f", e),
        **head(model_config, names, "wte.weight", bias=True),
    }


def parameters(model_config: GPTJConfig, names: Names) -> Tree:
    return tree(model_config, names)


def separate_modules(
    model_config: ModelConfig, base: str, attention: str, out: str, up: str, down: str
) -> list[Module]:
    """Returns the modules of a layer with q_proj, k_proj and v_proj, alike in heads, and an MLP without gates."""
    e, k, d = model_config.d_model, model_config.heads, model_config.head_dim
    stack, parts = (("layers",), model_config.layers), ("query", "key", "value")
    return [
        *(module(stack, f"attention/qkv/{part}", f"{base}.{attention}.{part[0]}_proj", e, (k, 1, d)) for part in parts),
        module(stack, "attention/out", f"{base}.{attention}.{out}", k * d, (e,)),
        module(stack, "mlp/up", f"{base}.{up}", e, (model_config.d_ff,)),
        module(stack, "mlp/down", f"{base}.{down}", model_config.d_ff, (e,)),
    ]


def modules(model_config: GPTJConfig) -> list[Module]:
    return separate_modules(model_config, "transformer.h.{}", "attn", "out_proj", "mlp.fc_in", "mlp.fc_out")


FAMILY = Family(
    title="GPT-J",
    model_config=GPTJConfig,
    network=GPTJ,
    readers={"gptj": read},
    parameters=parameters,
    modules=modules,
    anchor="ln_f.weight",
    base="transformer.",
    known={
        "gpt-j-6b": dict(
            model_type="gptj", n_layer=28, n_embd=4096, n_head=16, rotary_dim=64, vocab_size=50400, n_positions=2048
        )
    },
)
