"""A tuning method on a model: a few pure functions, and the counts of its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree

from prefix_jax.models.prefix import shortened
from prefix_jax.tuning.tuned_state import TunedState, Variables


def everything(trainable: PyTree) -> PyTree:
    return jax.tree.map(lambda _: True, trainable)


class Method(NamedTuple):
    """What is trained and how the model sees it.

    Attributes:
      init: `(key, base) -> trainable`, the tree that is differentiated, in float32.
      export: `(trainable, base, key) -> TunedState`, what is stored after training and what the model gets. A key means
        training (dropout); None means use.
      mask: `trainable -> tree of bool`: False leaves never move.
      resize: `(trainable, slots) -> trainable` with the first `slots` virtual tokens, zeros where there were fewer.
      positions: how many of the model's positions lie before the first token of an input.
      reserved: how many of them are places in the input itself, which hold the virtual tokens of a prompt.
      fixed_positions: whether a shorter prefix leaves as many positions before the first token.
    """

    init: Callable[[Array, Variables], PyTree]
    export: Callable[[PyTree, Variables, Array | None], TunedState]
    mask: Callable[[PyTree], PyTree] = everything
    resize: Callable[[PyTree, int], PyTree] = lambda trainable, slots: trainable
    positions: int = 0
    reserved: int = 0
    fixed_positions: bool = False

    def materialise(self, trainable: PyTree, base: Variables, key: Array | None = None) -> tuple[Variables, Any]:
        """Returns the variables and the prefix that `model.apply` takes."""
        kept = self.export(trainable, base, key)
        return kept.onto(base), kept.prefix

    def of_length(self, length: Array) -> "Method":
        """Returns the method with only the first `length` virtual tokens seen; the length may be traced."""

        def export(trainable: PyTree, base: Variables, key: Array | None = None) -> TunedState:
            kept = self.export(trainable, base, key)
            if kept.prefix is None:
                return kept
            short = shortened(kept.prefix, length)
            if self.fixed_positions:
                short = dataclasses.replace(short, position_offset=kept.prefix.position_offset)
            return TunedState(short, kept.collections)

        return self._replace(export=export)


def count(tree: PyTree) -> int:
    """Returns how many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


class Parameters(NamedTuple):
    """The numbers that a method trains and stores, and those of the model itself."""

    trained: int
    stored: int
    base: int

    @property
    def share(self) -> float:
        """What is stored, of the model."""
        return self.stored / self.base


def parameter_counts(method: Method, base: Variables) -> Parameters:
    """Returns the counts of a method on a model, of which the shapes are enough."""
    trainable = jax.eval_shape(method.init, jax.random.key(0), base)
    kept = jax.eval_shape(lambda t, b: method.export(t, b, None), trainable, base)
    return Parameters(trained_count(method, trainable), kept.count(), count(base))


def trained_count(method: Method, trainable: PyTree) -> int:
    """Returns how many numbers of a trainable tree move."""
    moves = jax.tree.leaves(method.mask(trainable))
    return sum(leaf.size for leaf, move in zip(jax.tree.leaves(trainable), moves, strict=True) if move)
