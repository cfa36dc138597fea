"""The shapes in the product's signatures, checked at every call of a test: what `jaxtyping`'s import hook calls."""

import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype


def checked(function: Callable) -> Callable:
    """Checks the arguments and results annotated with a shape, whatever kind of array they are, and no other types."""
    hints = {name: _widened(hint) for name, hint in function.__annotations__.items()}
    function.__annotations__ = {name: hint for name, hint in hints.items() if hint is not None}
    return beartype(function)


def _widened(hint: Any) -> Any:
    """Returns the hint for numpy's arrays and abstract ones too, None where it says no shape."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return hint.dtype[Any, hint.dim_str]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_widened(part) or part for part in typing.get_args(hint)]
        if any(_widened(part) for part in typing.get_args(hint)):
            return typing.Union[tuple(parts)]  # noqa: UP007
    return None
