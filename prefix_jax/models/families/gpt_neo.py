"""GPT-Neo (Black et al. 2021): GPT-2 with a sliding window in every other layer, and attention logits without a scale.

Queries, keys and values are torch Linears of their own, without biases.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from prefix_jax.errors import UserError
from prefix_jax.models.families.family import Family, Module
from prefix_jax.models.families.gpt2 import GPT2, GPT2Config
from prefix_jax.models.families.gpt_neox import attention_out
from prefix_jax.models.families.gptj import separate_modules, separate_qkv
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import ACTIVATIONS, MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.model_config import LayerKind
from prefix_jax.models.parameters import Names, Tree, affine, embedding, head, norm, stacked


@dataclass(frozen=True, kw_only=True)
class GPTNeoConfig(GPT2Config):
    family: ClassVar[str] = "gpt_neo"
    hashed_as: ClassVar[str] = ""
    activation: str
    sliding_window: int
    # Whether each layer has the sliding window.
    sliding: tuple[bool, ...]

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        return tuple(LayerKind(self.sliding_window if near else None) for near in self.sliding)


class GPTNeo(GPT2):
    model_config: GPTNeoConfig

    def make_block(self) -> nn.Module:
        s = self.model_config
        return Block(
            attention=SelfAttention(s.kv_heads, 1, s.head_dim, scale=1.0, out_bias=True),
            mlp=MLP(s.d_ff, ACTIVATIONS[s.activation], bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
        )


def read(c: dict[str, Any]) -> GPTNeoConfig:
    refuse(c, "activation_function", ("gelu_new", *ACTIVATIONS))
    d_model, heads = c["hidden_size"], c["num_heads"]
    return GPTNeoConfig(
        vocab_size=c["vocab_size"],
        layers=c["num_layers"],
        d_model=d_model,
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=c.get("intermediate_size") or 4 * d_model,
        norm_epsilon=c.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 50256),
        bos_id=first_id(c.get("bos_token_id"), 50256),
        pad_id=first_id(c.get("pad_token_id"), 0),
        max_positions=c.get("max_position_embeddings", 2048),
        activation=c.get("activation_function", "gelu_new"),
        sliding_window=c.get("window_size", 256),
        sliding=_sliding(c),
    )


def _sliding(c: dict[str, Any]) -> tuple[bool, ...]:
    """Returns whether each layer has the window: `attention_types` lists kinds, each list with a number of times."""
    types = c.get("attention_types") or [[["global", "local"], 12]]
    kinds = [kind for part, times in types for _ in range(times) for kind in part]
    if len(kinds) != c["num_layers"] or set(kinds) - {"global", "local"}:
        raise UserError(
            f"this gpt_neo model has attention_types={types!r}, which must give each of its {c['num_layers']} layers "
            '"global" or "local"; download its config.json again'
        )
    return tuple(kind == "local" for kind in kinds)


def parameters(model_config: GPTNeoConfig, names: Names) -> Tree:
    e, f = model_config.d_model, model_config.d_ff
    # What old versions of transformers saved beside the weights: a mask and a number.
    names.ignore("*.attn.attention.bias", "*.attn.attention.masked_bias")

    def layer(i: int) -> Tree:
        path = f"h.{i}"
        return {
            "attention_norm": norm(names, f"{path}.ln_1", e),
            "attention": {
                "qkv": separate_qkv(model_config, names, f"{path}.attn.attention"),
                "out": attention_out(model_config, names, f"{path}.attn.attention.out_proj", True),
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


def modules(model_config: GPTNeoConfig) -> list[Module]:
    return separate_modules(model_config, "transformer.h.{}", "attn.attention", "out_proj", "mlp.c_fc", "mlp.c_proj")


def sizes(layers: int, width: int, heads: int) -> dict[str, Any]:
    types = [[["global", "local"], layers // 2]]
    shape = dict(num_layers=layers, hidden_size=width, num_heads=heads, attention_types=types)
    return {"model_type": "gpt_neo", **shape, "vocab_size": 50257, "max_position_embeddings": 2048}


FAMILY = Family(
    title="GPT-Neo",
    model_config=GPTNeoConfig,
    network=GPTNeo,
    readers={"gpt_neo": read},
    parameters=parameters,
    modules=modules,
    anchor="wpe.weight",
    base="transformer.",
    known={
        "gpt-neo-125m": sizes(12, 768, 12),
        "gpt-neo-1.3b": sizes(24, 2048, 16),
        "gpt-neo-2.7b": sizes(32, 2560, 20),
    },
)
