"""The table of tuning methods: a file and a row each. `build` makes the one that a configuration names."""

from collections.abc import Mapping, Sequence

import jax
from jaxtyping import Array, PyTree

from prefix_jax import plugins
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models import Model
from prefix_jax.options import Config
from prefix_jax.tuning import adapter, finetune, infix, lora, prefix, prompt
from prefix_jax.tuning.declaration import Declaration
from prefix_jax.tuning.method import Method
from prefix_jax.tuning.tuned_state import TunedState, Variables

# The sections of a configuration have this order.
METHODS: dict[str, Declaration] = {
    module.METHOD.name: module.METHOD for module in (prefix, infix, prompt, lora, adapter, finetune)
}


def parts(method: object) -> list[str]:
    """Returns the methods in a value of `config.method`, such as "prefix+lora", as they are written there."""
    return [name.strip() for name in str(method).split("+")]


def find(name: str) -> Declaration:
    """Returns the declaration of a method: a name in `METHODS`, or the path of a module with a `METHOD`.

    Raises:
      UserError: the method is unknown, or the module cannot be imported or declares none.
    """
    if name in METHODS:
        return METHODS[name]
    if not plugins.is_path(name):
        raise UserError(f'there is no method "{name}"{did_you_mean(name, tuple(METHODS))}')
    found = plugins.load(name, "METHOD", "config.method")
    if not isinstance(found, Declaration):
        raise UserError(f'config.method is "{name}", which is not a prefix_jax.tuning.Declaration; make it one')
    if found.name in METHODS:
        raise UserError(f'the method of the module "{name}" has the name of another, "{found.name}"; rename it')
    return found


def known(method: object) -> dict[str, Declaration | None]:
    """Returns the declarations that a value of `config.method` names, as written there; None for unknown methods."""
    found: dict[str, Declaration | None] = {}
    for name in parts(method):
        try:
            found[name] = find(name)
        except UserError:  # saved by another version, or by a module that is not here
            found[name] = None
    return found


def declared(method: object) -> dict[str, Declaration]:
    """Returns the declarations that a value of `config.method` names, by the names of their sections.

    Raises:
      UserError: a method is unknown.
    """
    return {found.name: found for found in map(find, parts(method))}


def names(config: Config) -> list[str]:
    """Returns the names of the methods of a configuration, which are those of their sections.

    Raises:
      UserError: a method is unknown.
    """
    return [find(name).name for name in parts(config.method)]


def slots(config: Config) -> int:
    """Returns the length of the prefix (or infix) of a configuration's methods; 0: they give the model none."""
    methods = declared(config.method).values()
    return max((config[method.name].get("length", 0) for method in methods if method.takes == "prefix"), default=0)


def build(config: Config, model: Model, init_token_ids: Mapping[str, Sequence[int]] | None = None) -> Method:
    """Returns the method that `config.method` names, for a model; `lora+prefix` is two that are trained together.

    Args:
      config: the whole configuration; the method's section has its name.
      model: the model to be tuned.
      init_token_ids: token ids of the sections' `text`, by section, for initialisation from text.

    Raises:
      UserError: the method is unknown, an option is out of its range, or its section does not fit the model.
    """
    found: dict[str, Method] = {}
    taken: dict[str, str] = {}
    for method in map(find, parts(config.method)):
        name = method.name
        if name in found:
            raise UserError(f'config.method is "{config.method}", which names {name} twice')
        if method.takes in taken:
            raise UserError(
                f'config.method is "{config.method}"; a model takes {taken[method.takes]} or {name}, not both'
            )
        taken |= {method.takes: name} if method.takes else {}
        method.check_ranges(config[name])
        method.check_choices(config[name])
        found[name] = method.build(model, config[name], (init_token_ids or {}).get(name, ()))
    whole = next(iter(found.values())) if len(found) == 1 else _together(found)
    # As a program of its own it is traced once, for the counts of its shapes and for its numbers.
    return whole._replace(init=jax.jit(whole.init))


def _together(methods: Mapping[str, Method]) -> Method:
    """Several methods as one: the trainable tree has a branch for each."""

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
        fixed_positions=any(method.fixed_positions for method in methods.values()),
    )
