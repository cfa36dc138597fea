"""A tuning method is a few pure functions; `build` finds the one that a configuration names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree

from prefix_jax.config import Config
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models import Model
from prefix_jax.models.prefix import Prefix, shortened

Variables = Mapping[str, Any]


class Method(NamedTuple):
    """What is trained and how the model sees it.

    Attributes:
      init: `(key, base) -> trainable`, the tree that is differentiated, in float32.
      materialise: `(trainable, base, key) -> (variables, prefix)`, what `model.apply` takes. A key means training
      (dropout);
        None means use.
      mask: `trainable -> tree of bool`: False leaves never move.
      resize: `(trainable, slots) -> trainable` with the first `slots` virtual tokens, zeros where there were fewer.
    """

    init: Callable[[Array, Variables], PyTree]
    materialise: Callable[[PyTree, Variables, Array | None], tuple[Variables, Prefix | None]]
    mask: Callable[[PyTree], PyTree] = lambda trainable: jax.tree.map(lambda _: True, trainable)
    resize: Callable[[PyTree, int], PyTree] = lambda trainable, slots: trainable

    def of_length(self, length: Array) -> "Method":
        """Returns the method with only the first `length` virtual tokens seen; the length may be traced."""

        def materialise(trainable: PyTree, base: Variables, key: Array | None = None) -> tuple[Variables, Any]:
            variables, prefix = self.materialise(trainable, base, key)
            return variables, None if prefix is None else shortened(prefix, length)

        return self._replace(materialise=materialise)


def build(config: Config, model: Model, words: Sequence[int] = ()) -> Method:
    """Returns the method that `config.method` names, for a model.

    Args:
      config: the whole configuration; the method's section has its name.
      model: what is tuned.
      words: token ids of the section's `text`, for initialisation from text.

    Raises:
      UserError: the method is unknown or its section does not fit the model.
    """
    from prefix_jax.tuning import prefix

    methods = {"prefix": prefix.method}
    if config.method not in methods:
        raise UserError(f'there is no method "{config.method}"{did_you_mean(config.method, tuple(methods))}')
    return methods[config.method](model, config[config.method], words)


def count(tree: PyTree) -> int:
    """Returns how many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def stored_count(prefix: Prefix | None) -> int:
    """Returns how many numbers of a materialised prefix are kept after training: its keys and values."""
    sites = () if prefix is None else (prefix.encoder, prefix.decoder, prefix.cross)
    return sum(site.key.size + site.value.size for site in sites if site is not None)
