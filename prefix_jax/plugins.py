"""Objects of a user's own modules, by module path: `mypackage.module` or `mypackage.module:name`."""

import importlib
from typing import Any

from prefix_jax import lean_imports
from prefix_jax.errors import UserError, did_you_mean, first_line


def is_path(name: str) -> bool:
    """Returns whether a name is a module path: it holds a dot or a colon, as no built-in name does."""
    return "." in name or ":" in name


def load(path: str, default: str, option: str) -> Any:
    """Returns the object at a module path.

    Args:
      path: `module` or `module:name`.
      default: the name where the path has none.
      option: the option that holds the path, for messages.

    Raises:
      UserError: the module cannot be imported, or has no such name.
    """
    module, _, name = path.partition(":")
    name = name or default
    lean_imports.allow_torch()
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the module raises
        said = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f'{option} names the module "{module}", which cannot be imported ({said}); correct it'
        ) from None
    if not hasattr(found, name):
        hint = did_you_mean(name, [known for known in vars(found) if not known.startswith("_")])
        raise UserError(f'{option} is "{path}", but the module "{module}" has no "{name}"{hint}')
    return getattr(found, name)
