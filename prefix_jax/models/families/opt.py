"""OPT (Zhang et al. 2022), and Galactica: learned positions, ReLU, biases.

The smallest but one, 350m, has norms after each sum, none at the end, and embeddings narrower than its layers, with a
matrix on either side. A prompt has the width of the embeddings there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from prefix_jax.models.attention import attention_scale
from prefix_jax.models.families.family import Family, Module
from prefix_jax.models.families.gpt2 import GPT2, GPT2Config
from prefix_jax.models.families.gpt_neox import attention_out
from prefix_jax.models.families.gptj import separate_modules, separate_qkv
from prefix_jax.models.families.hf_config import end_ids, first_id, refuse
from prefix_jax.models.layers import ACTIVATIONS, MLP, Block, LayerNorm, Projection, SelfAttention
from prefix_jax.models.leaves import narrowed
from prefix_jax.models.parameters import Names, Tree, embedding, head, linear, norm, stacked

# Rows of the position table that no position takes.
OFFSET = 2


@dataclass(frozen=True, kw_only=True)
class OPTConfig(GPT2Config):
    family: ClassVar[str] = "opt"
    hashed_as: ClassVar[str] = ""
    activation: str
    biases: bool
    norm_first: bool
    final_norm: bool
    embedded: int

    @property
    def embedding_width(self) -> int:
        return self.embedded


class Nothing(nn.Module):
    """The identity, in place of a norm."""

    def __call__(self, x: Array) -> Array:
        return x


class OPT(GPT2):
    model_config: OPTConfig

    def setup(self) -> None:
        super().setup()
        s = self.model_config
        if s.embedded != s.d_model:
            self.project_in = Projection((s.d_model,))
            self.project_out = Projection((s.embedded,))

    def make_block(self) -> nn.Module:
        s = self.model_config
        scale = attention_scale(s.head_dim)
        return Block(
            attention=SelfAttention(s.kv_heads, 1, s.head_dim, scale, bias=s.biases, out_bias=s.biases),
            mlp=MLP(s.d_ff, ACTIVATIONS[s.activation], bias=s.biases),
            norm=partial(LayerNorm, s.norm_epsilon),
            norms="before" if s.norm_first else "after",
        )

    def make_norm(self) -> nn.Module:
        return LayerNorm(self.model_config.norm_epsilon) if self.model_config.final_norm else Nothing()

    def embed(self, tokens: Array, positions: Array | None, put: Callable[[Array], Array]) -> Array:
        narrow = self.model_config.embedded != self.model_config.d_model
        return self.embedding(tokens, positions, (lambda rows: self.project_in(put(rows))) if narrow else put)

    def logits(self, hidden: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        narrow = self.model_config.embedded != self.model_config.d_model
        return super().logits(self.project_out(hidden) if narrow else hidden)


def read(c: dict[str, Any]) -> OPTConfig:
    refuse(c, "activation_function", ("relu", *ACTIVATIONS))
    refuse(c, "layer_norm_elementwise_affine", (True,))
    d_model, heads = c["hidden_size"], c["num_attention_heads"]
    first = c.get("do_layer_norm_before", True)
    return OPTConfig(
        vocab_size=c["vocab_size"],
        layers=c["num_hidden_layers"],
        d_model=d_model,
        heads=heads,
        kv_heads=heads,
        head_dim=d_model // heads,
        d_ff=c.get("ffn_dim", 3072),
        norm_epsilon=1e-5,
        tie_embeddings=c.get("tie_word_embeddings", True),
        **end_ids(c, 2),
        bos_id=first_id(c.get("bos_token_id"), 2),
        pad_id=first_id(c.get("pad_token_id"), 1),
        max_positions=c.get("max_position_embeddings", 2048),
        activation=c.get("activation_function", "relu"),
        biases=c.get("enable_bias", True),
        norm_first=first,
        final_norm=first and not c.get("_remove_final_layer_norm", False),
        embedded=c.get("word_embed_proj_dim") or d_model,
    )


def parameters(model_config: OPTConfig, names: Names) -> Tree:
    s, e, base = model_config, model_config.d_model, "decoder"

    def linears(path: str, inputs: int, outputs: int) -> Tree:
        bias = {"bias": names(f"{path}.bias", outputs)} if s.biases else {}
        return {"kernel": linear(names(f"{path}.weight", outputs, inputs)), **bias}

    def layer(i: int) -> Tree:
        path = f"{base}.layers.{i}"
        return {
            "attention_norm": norm(names, f"{path}.self_attn_layer_norm", e),
            "attention": {
                "qkv": separate_qkv(s, names, f"{path}.self_attn", s.biases),
                "out": attention_out(s, names, f"{path}.self_attn.out_proj", s.biases),
            },
            "mlp_norm": norm(names, f"{path}.final_layer_norm", e),
            "mlp": {"up": linears(f"{path}.fc1", e, s.d_ff), "down": linears(f"{path}.fc2", s.d_ff, e)},
        }

    positions = names(f"{base}.embed_positions.weight", s.max_positions + OFFSET, e)
    tree = {
        "embedding": {
            "tokens": embedding(s, names, f"{base}.embed_tokens.weight"),
            "positions": narrowed(positions, 0, OFFSET, s.max_positions + OFFSET),
        },
        "layers": stacked(s.layers, layer),
        **head(s, names, f"{base}.embed_tokens.weight"),
    }
    if s.final_norm:
        tree["final_norm"] = norm(names, f"{base}.final_layer_norm", e)
    if s.embedded != e:
        tree["project_in"] = {"kernel": linear(names(f"{base}.project_in.weight", e, s.embedded))}
        tree["project_out"] = {"kernel": linear(names(f"{base}.project_out.weight", s.embedded, e))}
    return tree


def modules(model_config: OPTConfig) -> list[Module]:
    return separate_modules(model_config, "model.decoder.layers.{}", "self_attn", "out_proj", "fc1", "fc2")


def sizes(layers: int, width: int, heads: int, **more: Any) -> dict[str, Any]:
    shape = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, ffn_dim=4 * width)
    return {"model_type": "opt", **shape, "vocab_size": 50272, "max_position_embeddings": 2048, **more}


FAMILY = Family(
    title="OPT",
    model_config=OPTConfig,
    network=OPT,
    readers={"opt": read},
    parameters=parameters,
    modules=modules,
    anchor="decoder.embed_positions.weight",
    base="model.",
    known={
        "opt-125m": sizes(12, 768, 12),
        "opt-350m": sizes(24, 1024, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
        "opt-1.3b": sizes(24, 2048, 32),
        "opt-2.7b": sizes(32, 2560, 32),
        "opt-6.7b": sizes(32, 4096, 32),
        "opt-13b": sizes(40, 5120, 40),
        "opt-30b": sizes(48, 7168, 56),
        "opt-66b": sizes(64, 9216, 72),
    },
)
