"""GPT-2 (Radford et al. 2019): learned positions, layer norm with bias, tanh-approximated GELU."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
from jaxtyping import Array

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.family import Family, Gguf, Module, module
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.leaves import Leaf, split, transpose
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import Names, Tree, embedding, head, norm, stacked


@dataclass(frozen=True, kw_only=True)
class GPT2Config(ModelConfig):
    family: ClassVar[str] = "gpt2"
    hashed_as: ClassVar[str] = "GPT2Spec"
    positions: ClassVar[str] = "learned"
    max_positions: int

    @property
    def learned_positions(self) -> int:
        return self.max_positions

    @property
    def context_length(self) -> int:
        return self.max_positions


def gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


class GPT2(DecoderOnly):
    model_config: GPT2Config

    def make_block(self) -> nn.Module:
        s = self.model_config
        scale = attention_scale(s.head_dim)
        return Block(
            attention=SelfAttention(s.kv_heads, 1, s.head_dim, scale, bias=True, out_bias=True),
            mlp=MLP(s.d_ff, gelu, bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
        )

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.model_config.norm_epsilon)


def read(c: dict[str, Any]) -> GPT2Config:
    refuse(c, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
    refuse(c, "scale_attn_by_inverse_layer_idx", (False,))
    refuse(c, "scale_attn_weights", (True,))
    refuse(c, "add_cross_attention", (False,))
    return GPT2Config(**fields(c))


def fields(c: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `GPT2Config` that `config.json` spells the same way for GPT-2 and GPTBigCode."""
    d_model, heads = c["n_embd"], c["n_head"]
    return dict(
        vocab_size=c["vocab_size"],
        layers=c["n_layer"],
        d_model=d_model,
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=c.get("n_inner") or 4 * d_model,
        norm_epsilon=c.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 50256),
        bos_id=first_id(c.get("bos_token_id"), 50256),
        pad_id=first_id(c.get("pad_token_id"), 0),
        max_positions=c.get("n_positions", 1024),
    )


def parameters(model_config: GPT2Config, names: Names) -> Tree:
    e, f, k, d = model_config.d_model, model_config.d_ff, model_config.heads, model_config.head_dim

    def layer(i: int) -> Tree:
        # GPT-2's Conv1D is already [in, out]; its qkv has query, key, value outermost.
        qkv = split(names(f"h.{i}.attn.c_attn.weight", e, 3 * k * d), 1, (3, k, d))
        bias = split(names(f"h.{i}.attn.c_attn.bias", 3 * k * d), 0, (3, k, d))
        out = split(names(f"h.{i}.attn.c_proj.weight", k * d, e), 0, (k, 1, d))
        return {
            "attention_norm": norm(names, f"h.{i}.ln_1", e),
            "attention": {
                "qkv": {"kernel": transpose(qkv, (0, 2, 1, 3)), "bias": transpose(bias, (1, 0, 2))},
                "out": {"kernel": out, "bias": names(f"h.{i}.attn.c_proj.bias", e)},
            },
            "mlp_norm": norm(names, f"h.{i}.ln_2", e),
            "mlp": {
                "up": {"kernel": names(f"h.{i}.mlp.c_fc.weight", e, f), "bias": names(f"h.{i}.mlp.c_fc.bias", f)},
                "down": {"kernel": names(f"h.{i}.mlp.c_proj.weight", f, e), "bias": names(f"h.{i}.mlp.c_proj.bias", e)},
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


def sizes(layers: int, width: int, heads: int, vocabulary: int = 50257, window: int = 1024) -> dict[str, Any]:
    sizes = dict(n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary, n_positions=window)
    return {"model_type": "gpt2", **sizes}


def modules(model_config: GPT2Config) -> list[Module]:
    e, k, d = model_config.d_model, model_config.heads, model_config.head_dim
    stack, base = (("layers",), model_config.layers), "transformer.h.{}"
    parts = enumerate(("query", "key", "value"))
    return [
        *(module(stack, f"attention/qkv/{part}", f"{base}.attn.c_attn", e, (k, 1, d), slot) for slot, part in parts),
        module(stack, "attention/out", f"{base}.attn.c_proj", k * d, (e,)),
        module(stack, "mlp/up", f"{base}.mlp.c_fc", e, (model_config.d_ff,)),
        module(stack, "mlp/down", f"{base}.mlp.c_proj", model_config.d_ff, (e,)),
    ]


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    return {
        "n_layer": get("block_count"),
        "n_embd": get("embedding_length"),
        "n_head": get("attention.head_count"),
        "n_inner": get("feed_forward_length"),
        "n_positions": get("context_length"),
        "layer_norm_epsilon": get("attention.layer_norm_epsilon"),
    }


def _conv1d(name: str, leaf: Leaf, config: dict[str, Any]) -> Leaf:
    """Returns a matrix as transformers' Conv1D has it; llama.cpp stores outputs first."""
    return transpose(leaf, (1, 0)) if ".h." in name and len(leaf.shape) == 2 else leaf


_GGUF = Gguf(
    "gpt2",
    {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    _gguf_options,
    top={
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    },
    layers="transformer.h",
    restored=_conv1d,
)
FAMILY = Family(
    title="GPT-2",
    model_config=GPT2Config,
    network=GPT2,
    readers={"gpt2": read},
    parameters=parameters,
    modules=modules,
    anchor="wpe.weight",
    base="transformer.",
    known={
        "gpt2": sizes(12, 768, 12),
        "gpt2-medium": sizes(24, 1024, 16),
        "gpt2-large": sizes(36, 1280, 20),
        "gpt2-xl": sizes(48, 1600, 25),
        "gpt-j-6b-size": sizes(28, 4096, 16, vocabulary=50400, window=2048),  # GPT-2's layers at GPT-J's size
    },
    adapters=("transformer.", "GPT2LMHeadModel", "gpt2"),
    gguf={"gpt2": _GGUF},
    transposed=True,
    original="gpt2",
)
