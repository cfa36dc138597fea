"""A row of the table of families: everything that the rest of the package needs to know about a model family."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from flax import linen as nn

from prefix_jax.models.leaves import Leaf
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import Names, Tree


class Gguf(NamedTuple):
    """GGUF storage of an architecture.

    Attributes:
      model_type: Hugging Face's name of the architecture.
      tensors: llama.cpp's names of a layer's tensors, without the block, mapped to Hugging Face's in `layers`, or to
        whole names with {} for the block.
      options: `get -> options of config.json` in addition to the common ones; `get` reads a key of the file's
        metadata, without the architecture prefix.
      permuted: whether the rows of queries and keys are stored in interleaved pairs.
      norm_offset: constant added to the stored scales of norms.
      top: llama.cpp's names of the tensors outside layers, mapped to Hugging Face's.
      layers: Hugging Face's name of the list of layers.
      restored: `(name, leaf, config) -> leaf`, a tensor as Hugging Face stores it, by its name there.
      variant: the storage of a file with tensors of these names, where files of the architecture differ.
    """

    model_type: str
    tensors: Mapping[str, str]
    options: Callable[[Callable[..., Any]], dict[str, Any]] = lambda get: {}
    permuted: bool = False
    norm_offset: float = 0.0
    top: Mapping[str, str] = MappingProxyType(
        {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    )
    layers: str = "model.layers"
    restored: Callable[[str, Leaf, dict[str, Any]], Leaf] = lambda name, leaf, config: leaf
    variant: Callable[[Container[str]], Any] | None = None


# llama.cpp's names of the tensors in a layer like Llama's.
GGUF_TENSORS: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def gguf_layer_norms(get: Callable[..., Any], epsilon: str) -> dict[str, Any]:
    """Returns the options of a `config.json` for layer norms and for positions in part of a head."""
    width = get("attention.key_length", get("embedding_length") // get("attention.head_count"))
    rotated = get("rope.dimension_count", width)
    return {epsilon: get("attention.layer_norm_epsilon"), "partial_rotary_factor": rotated / width}


class Module(NamedTuple):
    """A projection of this package and the module of transformers' network that has its weights.

    Attributes:
      stack: the path of the stack that it is in.
      path: its path in a layer.
      name: the module's, with {} for the layer.
      layers: of the stack.
      inputs: how many numbers it takes.
      outputs: the shape of what it gives.
      slot: its place in a module that fuses query, key and value, or gate and up; None: it is a module of its own.
      blocks: how many blocks of equal size the outputs of a fused module have, each with a share of query, key and
        value. GPT-NeoX has one for each head.
    """

    stack: tuple[str, ...]
    path: tuple[str, ...]
    name: str
    layers: int
    inputs: int
    outputs: tuple[int, ...]
    slot: int | None = None
    blocks: int = 1


def module(
    stack: tuple[tuple[str, ...], int], path: str, name: str, inputs: int, outputs: tuple[int, ...],
    slot: int | None = None, blocks: int = 1,
) -> Module:  # fmt: skip
    """Returns a module, given the path of its stack with the number of its layers."""
    return Module(stack[0], tuple(path.split("/")), name, stack[1], inputs, outputs, slot, blocks)


def attention_modules(
    model_config: ModelConfig, stack: tuple[tuple[str, ...], int], site: str, name: str, out: str
) -> list[Module]:
    """Returns the modules of an encoder-decoder's attention.

    Args:
      site: "attention" or "cross".
      name: module name, with {} for the layer and then for the part: q, k, v or `out`.
    """
    e, h, d = model_config.d_model, model_config.heads, model_config.head_dim
    paths = {"attention": ("qkv/query", "qkv/key", "qkv/value"), "cross": ("query", "key_value/key", "key_value/value")}
    parts = zip(paths[site], "qkv", strict=True)
    found = [module(stack, f"{site}/{path}", name.format("{}", part), e, (h, 1, d)) for path, part in parts]
    return [*found, module(stack, f"{site}/out", name.format("{}", out), h * d, (e,))]


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
      title: display name.
      model_config: class of its model configs; `model_config.family` is its name in files.
      network: class of its networks, called as `network(model_config, rematerialise, activations, sharder, fused)`.
      readers: a function from `config.json` to a model config, for each `model_type`.
      parameters: `(model_config, names) -> tree`, the parameter tree over the leaves of a checkpoint.
      modules: `model_config -> modules`, the projections as modules of transformers' networks.
      anchor: name of a tensor that every checkpoint has.
      base: prefix of the base model's names in a model with a head.
      known: `config.json` of well-known sizes by name, for planning.
      gguf: storage in GGUF files, by llama.cpp's name of the architecture.
      adapters: for files of the `adapters` library: the attribute of the base model with its dot, the class with the
        head, and the type; None: the library does not support this family's prefixes.
      transposed: whether the matrices of its modules are `[inputs, outputs]` (Conv1D).
      original: its `model_type` in the files of Li & Liang (2021); empty: not supported there.
      quantised: forms of quantised weights that `parameters` reads, by `quant_method` of `config.json`.
    """

    title: str
    model_config: type[ModelConfig]
    network: type[nn.Module]
    readers: Mapping[str, Callable[[dict[str, Any]], ModelConfig]]
    parameters: Callable[[Any, Names], Tree]
    modules: Callable[[Any], list[Module]]
    anchor: str
    base: str = ""
    known: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    gguf: Mapping[str, Gguf] = field(default_factory=dict)
    adapters: tuple[str, str, str] | None = None
    transposed: bool = False
    original: str = ""
    quantised: tuple[str, ...] = ()
