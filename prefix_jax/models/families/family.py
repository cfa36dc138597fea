"""One row of the table of families: all that the rest of the package asks about a family of models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flax import linen as nn

from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import Names, Tree


class Gguf(NamedTuple):
    """How llama.cpp stores an architecture.

    Attributes:
      model_type: Hugging Face's.
      tensors: llama.cpp's names of a layer's tensors, without the block, and Hugging Face's.
      options: `get -> options of config.json` beside those that all architectures have; `get` reads a key of the file's
        metadata, without the architecture before it.
      permuted: whether the rows of queries and keys are stored in interleaved pairs.
      norm_offset: what was added to the scales of norms.
    """

    model_type: str
    tensors: Mapping[str, str]
    options: Callable[[Callable[..., Any]], dict[str, Any]] = lambda get: {}
    permuted: bool = False
    norm_offset: float = 0.0


class Module(NamedTuple):
    """One of our projections, and the module of transformers' network that has its weights.

    Attributes:
      stack: the path of the stack that it is in.
      path: its path in a layer.
      name: the module's, with {} for the layer.
      layers: of the stack.
      inputs: how many numbers it takes.
      outputs: the shape of what it gives.
      slot: its place in a module that fuses query, key and value; None: it is a module of its own.
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
      name: of a module, with {} for the layer and then for the part: q, k, v or `out`.
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
      title: what texts call it.
      spec: the class of its descriptions; `spec.family` is its name in files.
      network: the class of its networks, called as `network(spec, rematerialise, activations, placement, fused)`.
      readers: for each `model_type` of a `config.json`, what makes a description of it.
      parameters: `(spec, names) -> tree`, the parameter tree over the leaves of a checkpoint.
      modules: `spec -> modules`, where the networks of transformers have our projections.
      anchor: a tensor that every checkpoint has.
      base: what a model with a head puts before the names of its base.
      known: `config.json` of well-known sizes by name, for planning.
      gguf: by llama.cpp's name of an architecture, how it is stored.
      adapters: for the files of `adapters`: the attribute of the base model with its dot, the class with the head, and
        the type; None: they cannot hold this family's prefixes.
      transposed: whether the matrices of its modules are `[inputs, outputs]` (Conv1D).
      original: the `model_type` that the files of Li & Liang (2021) have for it; empty: they have none.
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
