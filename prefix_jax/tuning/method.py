"""A tuning method is a few pure functions; `build` finds the one that a configuration names."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree

from prefix_jax.config import Config, check_ranges
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models import Model
from prefix_jax.models.prefix import shortened
from prefix_jax.tuning.tuned_state import TunedState, Variables

# Each is the name of a module here, and of its section of the configuration.
METHODS = ("prefix", "infix", "prompt", "lora", "adapter", "finetune")


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
    """

    init: Callable[[Array, Variables], PyTree]
    export: Callable[[PyTree, Variables, Array | None], TunedState]
    mask: Callable[[PyTree], PyTree] = everything
    resize: Callable[[PyTree, int], PyTree] = lambda trainable, slots: trainable
    positions: int = 0
    reserved: int = 0

    def materialise(self, trainable: PyTree, base: Variables, key: Array | None = None) -> tuple[Variables, Any]:
        """Returns the variables and the prefix that `model.apply` takes."""
        kept = self.export(trainable, base, key)
        return kept.onto(base), kept.prefix

    def of_length(self, length: Array) -> "Method":
        """Returns the method with only the first `length` virtual tokens seen; the length may be traced."""

        def export(trainable: PyTree, base: Variables, key: Array | None = None) -> TunedState:
            kept = self.export(trainable, base, key)
            return kept if kept.prefix is None else TunedState(shortened(kept.prefix, length), kept.collections)

        return self._replace(export=export)


def build(config: Config, model: Model, words: Mapping[str, Sequence[int]] | None = None) -> Method:
    """Returns the method that `config.method` names, for a model; `lora+prefix` is two that are trained together.

    Args:
      config: the whole configuration; the method's section has its name.
      model: what is tuned.
      words: token ids of the sections' `text`, by section, for initialisation from text.

    Raises:
      UserError: the method is unknown, a number is out of its range, or its section does not fit the model.
    """
    check_ranges(config)
    found: dict[str, Method] = {}
    for name in names(config):
        if name in found:
            raise UserError(f'config.method is "{config.method}", which names {name} twice')
        module = importlib.import_module(f"prefix_jax.tuning.{name}")
        found[name] = module.method(model, config[name], (words or {}).get(name, ()))
    whole = next(iter(found.values())) if len(found) == 1 else _together(config.method, found)
    # As a program of its own it is traced once, for the counts of its shapes and for its numbers.
    return whole._replace(init=jax.jit(whole.init))


def names(config: Config) -> list[str]:
    """Returns the methods that a configuration names.

    Raises:
      UserError: there is no such method.
    """
    found = [name.strip() for name in str(config.method).split("+")]
    for name in found:
        if name not in METHODS:
            raise UserError(f'there is no method "{name}"{did_you_mean(name, METHODS)}')
    return found


def _together(title: str, methods: Mapping[str, Method]) -> Method:
    """Several methods as one: the trainable tree has a branch for each."""
    if len({"prefix", "infix"} & methods.keys()) > 1:
        raise UserError(f'config.method is "{title}"; a model takes a prefix or an infix, not both')

    def init(key: Array, base: Variables) -> PyTree:
        keys = jax.random.split(key, len(methods))
        return {name: method.init(one, base) for (name, method), one in zip(methods.items(), keys, strict=True)}

    def export(trainable: PyTree, base: Variables, key: Array | None = None) -> TunedState:
        kept = TunedState()
        for number, (name, method) in enumerate(methods.items()):
            own = None if key is None else jax.random.fold_in(key, number)
            kept = kept.joined(method.export(trainable[name], base, own))
        return kept

    return Method(
        init,
        export,
        mask=lambda trainable: {name: method.mask(trainable[name]) for name, method in methods.items()},
        resize=lambda trainable, slots: {n: m.resize(trainable[n], slots) for n, m in methods.items()},
        positions=sum(method.positions for method in methods.values()),
        reserved=sum(method.reserved for method in methods.values()),
    )


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
