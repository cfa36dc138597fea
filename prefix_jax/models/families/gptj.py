"""GPT-J (Wang and Komatsuzaki 2021): parallel attention and MLP; interleaved rotary positions on part of a head."""

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
from prefix_jax.models.leaves import concatenate, split, transpose
from prefix_jax.models.model_config import LayerKind, ModelConfig, Rotary
from prefix_jax.models.parameters import Names, Tree, embedding, head, linear, stacked


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


def parameters(model_config: GPTJConfig, names: Names) -> Tree:
    e, f, k, d = model_config.d_model, model_config.d_ff, model_config.heads, model_config.head_dim

    def affine(path: str, inputs: int, outputs: int) -> Tree:
        return {"kernel": linear(names(f"{path}.weight", outputs, inputs)), "bias": names(f"{path}.bias", outputs)}

    def layer(i: int) -> Tree:
        path = f"h.{i}.attn"
        qkv = concatenate([split(names(f"{path}.{p}_proj.weight", k * d, e), 0, (k, 1, d)) for p in "qkv"], 1)
        out = split(names(f"{path}.out_proj.weight", e, k * d), 1, (k, 1, d))
        return {
            "attention_norm": {"scale": names(f"h.{i}.ln_1.weight", e), "bias": names(f"h.{i}.ln_1.bias", e)},
            "attention": {
                "qkv": {"kernel": transpose(qkv, (3, 0, 1, 2))},
                "out": {"kernel": transpose(out, (1, 2, 3, 0))},
            },
            "mlp": {"up": affine(f"h.{i}.mlp.fc_in", e, f), "down": affine(f"h.{i}.mlp.fc_out", f, e)},
        }

    return {
        "embedding": {"tokens": embedding(model_config, names, "wte.weight")},
        "layers": stacked(model_config.layers, layer),
        "final_norm": {"scale": names("ln_f.weight", e), "bias": names("ln_f.bias", e)},
        **head(model_config, names, "wte.weight", bias=True),
    }


def modules(model_config: GPTJConfig) -> list[Module]:
    e, k, d = model_config.d_model, model_config.heads, model_config.head_dim
    stack, base = (("layers",), model_config.layers), "transformer.h.{}"
    parts = ("query", "key", "value")
    return [
        *(module(stack, f"attention/qkv/{part}", f"{base}.attn.{part[0]}_proj", e, (k, 1, d)) for part in parts),
        module(stack, "attention/out", f"{base}.attn.out_proj", k * d, (e,)),
        module(stack, "mlp/up", f"{base}.mlp.fc_in", e, (model_config.d_ff,)),
        module(stack, "mlp/down", f"{base}.mlp.fc_out", model_config.d_ff, (e,)),
    ]


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
