"""Configurations from what a caller in Python gives: options by dotted name, methods, and errors in one sentence."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.options import Config, flat
from prefix_jax.tuning import MethodOptions, Together

Methods = MethodOptions | Together | str


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """Returns a copy of a configuration with other values of options, by dotted name.

    Raises:
      UserError: an option is unknown, or a value has another type.
    """
    changed = config.copy_and_resolve_references()
    known = flat(config.to_dict())
    for name, value in options.items():
        if name not in known:
            raise UserError(f'there is no option "{name}"{did_you_mean(name, tuple(known))}')
        value = tuple(value) if isinstance(known[name], list) else value
        try:
            changed.update_from_flattened_dict({name: value})
        except (TypeError, ValueError):
            kind = type(known[name]).__name__
            raise UserError(f"{name} is {value!r}, of type {type(value).__name__}; it must be {kind}") from None
    return changed


def method_name(methods: Methods) -> str:
    """Returns the value of `config.method` for one or more methods."""
    if isinstance(methods, str):
        return methods
    if isinstance(methods, type):
        raise UserError(f"the method is the class {methods.__name__}; call it, as {methods.__name__}()")
    if not isinstance(methods, (MethodOptions, Together)):
        raise UserError(f"the method is {type(methods).__name__}; give one such as prefix_jax.Prefix(), or its name")
    return "+".join(part.method for part in methods.parts)


def method_options(methods: Methods, config: Config) -> dict[str, Any]:
    """Returns the options of methods, by dotted name."""
    from prefix_jax import tuning

    if isinstance(methods, str):
        return {}
    sections = zip(tuning.names(config), methods.parts, strict=True)
    return {f"{name}.{option}": value for name, part in sections for option, value in part.options().items()}


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Converts errors of the file system to a UserError."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(f"{error.filename}: {(error.strerror or 'cannot be used').lower()}") from error
