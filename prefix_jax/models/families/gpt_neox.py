"""GPT-NeoX (Black et al. 2022), of which Pythia is one: queries, keys and values fused by head, rotary positions in
part of a head, attention and MLP side by side with a norm each, or one after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families.family import Family, Gguf, Module, gguf_layer_norms, module
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse, rope_parameters, rotary_scaling
from prefix_jax.models.layers import ACTIVATIONS, MLP, Block, LayerNorm, SelfAttention
from prefix_jax.models.leaves import Leaf, merge, split, transpose
from prefix_jax.models.model_config import LayerKind, ModelConfig, Rotary
from prefix_jax.models.parameters import Names, Tree, affine, embedding, head, norm, stacked


@dataclass(frozen=True, kw_only=True)
class GPTNeoXConfig(ModelConfig):
    family: ClassVar[str] = "gpt_neox"
    positions: ClassVar[str] = "rotary"
    max_positions: int
    rope_base: float
    rope_scaling: tuple | None  # as in `Rotary`
    rotary_dims: int
    activation: str
    attention_bias: bool
    parallel: bool

    @property
    def context_length(self) -> int:
        return self.max_positions

    @property
    def layer_pattern(self) -> tuple[LayerKind, ...]:
        return (LayerKind(rotary=Rotary(self.rope_base, self.rope_scaling, dims=self.rotary_dims)),) * self.layers


class GPTNeoX(DecoderOnly):
    model_config: GPTNeoXConfig

    def make_block(self) -> nn.Module:
        s, scale = self.model_config, attention_scale(self.model_config.head_dim)
        bias = s.attention_bias
        return Block(
            attention=SelfAttention(s.kv_heads, 1, s.head_dim, scale, bias=bias, out_bias=bias),
            mlp=MLP(s.d_ff, ACTIVATIONS[s.activation], bias=True),
            norm=partial(LayerNorm, s.norm_epsilon),
            norms="parallel_two" if s.parallel else "before",
        )

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.model_config.norm_epsilon)


def read(c: dict[str, Any]) -> GPTNeoXConfig:
    refuse(c, "hidden_act", ("gelu", *ACTIVATIONS))
    d_model, heads = c["hidden_size"], c["num_attention_heads"]
    refuse(c, "head_dim", (None, d_model // heads))
    rope = rope_parameters(c)
    rotated = rope.get("partial_rotary_factor", c.get("rotary_pct", 0.25))
    return GPTNeoXConfig(
        vocab_size=c["vocab_size"],
        layers=c["num_hidden_layers"],
        d_model=d_model,
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=c.get("intermediate_size", 24576),
        norm_epsilon=c.get("layer_norm_eps", 1e-5),
        tie_embeddings=c.get("tie_word_embeddings", False),
        **end_ids(c, 2),
        bos_id=first_id(c.get("bos_token_id"), 0),
        pad_id=first_id(c.get("pad_token_id"), 0),
        max_positions=c.get("max_position_embeddings", 2048),
        rope_base=float(c.get("rotary_emb_base") or rope["rope_theta"]),
        rope_scaling=rotary_scaling(rope, c.get("max_position_embeddings", 2048)),
        rotary_dims=int(d_model // heads * rotated),
        activation=c.get("hidden_act", "gelu"),
        attention_bias=c.get("attention_bias", True),
        parallel=c.get("use_parallel_residual", True),
    )


def fused_by_head(model_config: ModelConfig, names: Names, path: str, bias: bool) -> Tree:
    """Returns query, key and value from one matrix with, for each key-value head, rows of queries, key and value."""
    e, k, d = model_config.d_model, model_config.kv_heads, model_config.head_dim
    parts = model_config.heads // k + 2

    def rows(kind: str, *inner: int) -> Leaf:
        return split(names(f"{path}.{kind}", k * parts * d, *inner), 0, (k, parts, d))

    kernel = transpose(rows("weight", e), (3, 0, 1, 2))
    return {"kernel": kernel, **({"bias": rows("bias")} if bias else {})}


def attention_out(model_config: ModelConfig, names: Names, path: str, bias: bool) -> Tree:
    """Returns the output projection of attention from a torch Linear."""
    e, k, d = model_config.d_model, model_config.kv_heads, model_config.head_dim
    leaf = split(names(f"{path}.weight", e, model_config.heads * d), 1, (k, model_config.heads // k, d))
    return {"kernel": transpose(leaf, (1, 2, 3, 0)), **({"bias": names(f"{path}.bias", e)} if bias else {})}


def parameters(model_config: GPTNeoXConfig, names: Names) -> Tree:
    e, f, bias = model_config.d_model, model_config.d_ff, model_config.attention_bias
    # What old versions of transformers saved beside the weights: a mask and a number.
    names.ignore("*.attention.bias", "*.attention.masked_bias")

    def layer(i: int) -> Tree:
        path = f"layers.{i}"
        return {
            "attention_norm": norm(names, f"{path}.input_layernorm", e),
            "attention": {
                "qkv": fused_by_head(model_config, names, f"{path}.attention.query_key_value", bias),
                "out": attention_out(model_config, names, f"{path}.attention.dense", bias),
            },
            "mlp_norm": norm(names, f"{path}.post_attention_layernorm", e),
            "mlp": {
                "up": affine(names, f"{path}.mlp.dense_h_to_4h", e, f),
                "down": affine(names, f"{path}.mlp.dense_4h_to_h", f, e),
            },
        }

    # The head is "embed_out" in files, also in those of transformers 5.
    output = "lm_head" if "lm_head.weight" in names else "embed_out"
    return {
        "embedding": {"tokens": embedding(model_config, names, "embed_in.weight", head=output)},
        "layers": stacked(model_config.layers, layer),
        "final_norm": norm(names, "final_layer_norm", e),
        **head(model_config, names, "embed_in.weight", output),
    }


def fused_modules(model_config: ModelConfig, base: str, qkv: str, out: str, up: str, down: str) -> list[Module]:
    """Returns the modules of a layer whose query, key and value are fused by key-value head."""
    e, f, k, d = model_config.d_model, model_config.d_ff, model_config.kv_heads, model_config.head_dim
    stack = (("layers",), model_config.layers)
    parts = (("query", model_config.heads // k), ("key", 1), ("value", 1))
    return [
        *(
            module(stack, f"attention/qkv/{part}", f"{base}.{qkv}", e, (k, n, d), slot, blocks=k)
            for slot, (part, n) in enumerate(parts)
        ),
        module(stack, "attention/out", f"{base}.{out}", model_config.heads * d, (e,)),
        module(stack, "mlp/up", f"{base}.{up}", e, (f,)),
        module(stack, "mlp/down", f"{base}.{down}", f, (e,)),
    ]


def modules(model_config: GPTNeoXConfig) -> list[Module]:
    inner = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    return fused_modules(model_config, "gpt_neox.layers.{}", *inner)


def sizes(layers: int, width: int, heads: int, vocabulary: int = 50304, **more: Any) -> dict[str, Any]:
    sizes = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
    return {"model_type": "gpt_neox", **sizes, "vocab_size": vocabulary, **more}


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    norms = gguf_layer_norms(get, "layer_norm_eps")
    return {
        "hidden_act": "gelu",  # which the file does not store
        "layer_norm_eps": norms["layer_norm_eps"],
        "rotary_pct": norms["partial_rotary_factor"],
        "use_parallel_residual": get("use_parallel_residual", True),
    }


def _by_head(name: str, leaf: Leaf, config: dict[str, Any]) -> Leaf:
    """Returns queries, keys and values with heads outermost; llama.cpp stores the queries of all heads first."""
    if ".query_key_value." not in name:
        return leaf
    heads, rank = config["num_attention_heads"], len(leaf.shape)
    parts = split(leaf, 0, (3, heads, leaf.shape[0] // (3 * heads)))
    return merge(transpose(parts, (1, 0, 2, *range(3, rank + 2))), 0, 3)


_GGUF = Gguf(
    "gpt_neox",
    {
        "attn_norm": "input_layernorm",
        "attn_qkv": "attention.query_key_value",
        "attn_output": "attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    },
    _gguf_options,
    top={"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
    layers="gpt_neox.layers",
    restored=_by_head,
)
FAMILY = Family(
    title="GPT-NeoX",
    model_config=GPTNeoXConfig,
    network=GPTNeoX,
    readers={"gpt_neox": read},
    parameters=parameters,
    modules=modules,
    anchor="embed_in.weight",
    base="gpt_neox.",
    gguf={"gptneox": _GGUF},
    known={
        "pythia-70m": sizes(6, 512, 8),
        "pythia-160m": sizes(12, 768, 12),
        "pythia-410m": sizes(24, 1024, 16),
        "pythia-1b": sizes(16, 2048, 8),
        "pythia-1.4b": sizes(24, 2048, 16),
        "pythia-2.8b": sizes(32, 2560, 32),
        "pythia-6.9b": sizes(32, 4096, 32, vocabulary=50432),
        "pythia-12b": sizes(36, 5120, 40, vocabulary=50688),
        "gpt-neox-20b": sizes(44, 6144, 64, vocabulary=50432),
    },
)
