"""Parameter trees built from a checkpoint's tensor names as lazy leaves: helpers for the rules of each family.

Kernels are input-major, layers are stacked on the first axis, and query, key and value of a layer are one kernel
with an axis of key-value heads (so that a mesh can divide it). In comments L is layers, E d_model, F d_ff, K key-value
heads, G query heads for each key-value head, D head_dim.
"""

import fnmatch
from collections.abc import Callable
from typing import Any

import numpy as np

from prefix_jax.errors import UserError
from prefix_jax.models.leaves import Leaf, stack, transpose
from prefix_jax.models.model_config import ModelConfig

_ROWS = 4096  # rows compared at a time when two matrices are checked for equality
# Copies of "shared.weight".
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

Table = dict[str, Leaf]
Tree = dict[str, Any]


class Names:
    """Checkpoint tensors by name; records accesses so that unused tensors are detected."""

    def __init__(self, table: Table):
        self._table = table
        self._taken: set[str] = set()

    def without(self, prefix: str) -> None:
        """Strips a prefix from every name that has it (base models are saved without the prefix of models with a head).

        Raises:
          UserError: a tensor exists both with and without it.
        """
        short = {name.removeprefix(prefix): leaf for name, leaf in self._table.items()}
        if len(short) < len(self._table):
            both = next(name for name in self._table if prefix + name in self._table)
            raise UserError(f'the checkpoint has both "{both}" and "{prefix}{both}"; save the model alone')
        self._table = short

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def __call__(self, name: str, *shape: int) -> Leaf:
        if name not in self._table:
            raise UserError(f'the checkpoint has no tensor "{name}", {self._cause(name)}')
        leaf = self._table[name]
        if leaf.dtype.kind in "iub":
            raise UserError(
                f'the checkpoint\'s tensor "{name}" holds integers ({leaf.dtype}), as quantised weights do; use the '
                "original weights, with --config.model.quantisation=int8 where memory is short"
            )
        if leaf.shape != shape and leaf.shape == shape[::-1]:
            raise UserError(
                f'the checkpoint\'s tensor "{name}" is {leaf.shape}, the transpose of what transformers stores '
                f"({shape}), as in nanoGPT; export it in Hugging Face's form"
            )
        return self._of_shape(name, shape)

    def packed(self, name: str, *shape: int) -> Leaf:
        """Returns a tensor whose bytes hold several numbers each."""
        if name not in self._table:
            raise UserError(f'the checkpoint has no tensor "{name}", {self._cause(name)}')
        return self._of_shape(name, shape)

    def _of_shape(self, name: str, shape: tuple[int, ...]) -> Leaf:
        leaf = self._table[name]
        if leaf.shape != shape:
            raise UserError(f'the checkpoint\'s tensor "{name}" is {leaf.shape}, and its config.json says {shape}')
        self._taken.add(name)
        return leaf

    def ignore(self, *patterns: str) -> None:
        """Skips redundant tensors: buffers and copies."""
        self._taken |= {n for n in self._table if any(fnmatch.fnmatchcase(n, p) for p in patterns)}

    def _cause(self, name: str) -> str:
        """Returns the likely reason for a missing tensor, with a fix."""
        if name in ("lm_head.weight", "embed_out.weight"):
            return (
                "the output matrix, and its config.json has tie_word_embeddings=false: it was saved without its head, "
                "in whose place transformers puts random numbers; use the model with its head"
            )
        for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
            if name.startswith(f"{side}.") and not any(n.startswith(f"{side}.") for n in self._table):
                return f"nor any of the {side}: it was saved as an {other} alone; use the whole model"
        if not self._taken and self._table:
            return (
                f'and its names, such as "{next(iter(self._table))}", are not those of its model_type; export it in '
                "Hugging Face's form, with save_pretrained()"
            )
        return "which its config.json calls for; is it whole, and the weights of that very configuration?"

    def unused(self) -> set[str]:
        """Returns the names that were neither accessed nor ignored."""
        return set(self._table) - self._taken


def stacked(layers: int, rule: Callable[[int], Tree]) -> Tree:
    """Merges the trees of all layers into one, each leaf stacked on a new first axis."""

    def merge(trees: list[Any]) -> Any:
        if isinstance(trees[0], Leaf):
            return stack(trees)
        return {key: merge([tree[key] for tree in trees]) for key in trees[0]}

    return merge([rule(i) for i in range(layers)])


def linear(leaf: Leaf) -> Leaf:
    """Transposes torch's `[out, in]` Linear weight to `[in, out]`."""
    return transpose(leaf, (1, 0))


def affine(names: Names, path: str, inputs: int, outputs: int) -> Tree:
    """Returns a torch Linear with a bias."""
    return {"kernel": linear(names(f"{path}.weight", outputs, inputs)), "bias": names(f"{path}.bias", outputs)}


def norm(names: Names, path: str, width: int) -> Tree:
    """Returns a layer norm."""
    return {"scale": names(f"{path}.weight", width), "bias": names(f"{path}.bias", width)}


def embedding(model_config: ModelConfig, names: Names, name: str, *copies: str, head: str = "lm_head") -> Leaf:
    """Returns the embedding matrix, which may be stored only under the name of a tied copy."""
    tied = (f"{head}.weight",) if model_config.tie_embeddings else ()
    found = next((other for other in (name, *copies, *tied) if other in names), name)
    return names(found, model_config.vocab_size, model_config.embedding_width)


def head(model_config: ModelConfig, names: Names, embedding: str, name: str = "lm_head", bias: bool = False) -> Tree:
    """Returns the output matrix if it is not tied to the embedding, even if the configuration says so but the file
    has a different one, as transformers 5 may save it. A head with a bias always has a matrix, of which a tied one is a
    copy.
    """
    shape, weight = (model_config.vocab_size, model_config.embedding_width), f"{name}.weight"
    one = model_config.tie_embeddings and (weight not in names or embedding not in names)
    if bias:
        tokens = names(embedding if one and embedding in names else weight, *shape)
        return {"head": {"tokens": tokens, "bias": names(f"{name}.bias", shape[0])}}
    if one:
        return {}
    head = names(weight, *shape)
    return {} if model_config.tie_embeddings and equal(head, names(embedding, *shape)) else {"head": {"tokens": head}}


def equal(a: Leaf, b: Leaf) -> bool:
    parts = [slice(start, start + _ROWS) for start in range(0, a.shape[0], _ROWS)]
    return all(np.array_equal(a.read((rows, slice(None))), b.read((rows, slice(None)))) for rows in parts)


def only_copies(model_config: ModelConfig, names: Names, *copies: str) -> None:
    """Marks the encoder's and the decoder's embeddings as used; both must equal the shared one."""
    shape = (model_config.vocab_size, model_config.d_model)
    first, *others = [name for name in ("shared.weight", *copies) if name in names] or [""]
    for name in others:
        if not equal(names(name, *shape), names(first, *shape)):
            raise UserError(
                f'the checkpoint\'s "{name}" differs from its "{first}"; separate embeddings for the encoder and '
                "the decoder are not supported"
            )
