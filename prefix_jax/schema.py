"""Declared schemas of JSON files; the only module that imports msgspec.

A schema is a type: a `TypedDict` with the keys that are read, of the types that are taken for granted afterwards. Keys
beside them are of other versions, and are kept.
"""

import re
from typing import Annotated, Any, TypeVar

import msgspec

from prefix_jax.errors import UserError

T = TypeVar("T")

# A whole number of things.
Size = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]

# What msgspec says of a value, and where it is: "Expected `int`, got `str` - at `$.rows[0].step`".
_SAID = re.compile(r"(.*?)(?: - at `?(key)?`?(?: in )?`?\$\.?(.*?)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_OTHER = re.compile(r"Expected `([^`]*)`( [^,]*)?(?:, got `([^`]*)`)?")


def problem(value: object, schema: Any) -> str:
    """Returns why a value is not of a schema, with the path of the field; "" if it is.

    Numbers of the type `float` may be whole ones; nothing else is converted.
    """
    try:
        msgspec.convert(value, schema)
    except (msgspec.ValidationError, UnicodeError, RecursionError, OverflowError) as error:
        return _words(str(error))
    return ""


def checked(value: Any, schema: type[T], where: object, fix: str) -> T:
    """Returns a value of outside after it was checked.

    Args:
      where: the file, for the message.
      fix: what to do about it.

    Raises:
      UserError: the value is not of the schema.
    """
    if said := problem(value, schema):
        raise UserError(f"{where} is damaged: {said}; {fix}")
    return value


def matching(pattern: str) -> Any:
    """Returns the type of texts that a regular expression matches somewhere."""
    return Annotated[str, msgspec.Meta(pattern=pattern)]


def within(low: float, high: float) -> Any:
    """Returns the type of whole numbers from `low` to `high`."""
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


def _words(said: str) -> str:
    """Returns what msgspec says as "rows[0].step must be int, not str"."""
    found = _SAID.fullmatch(said)
    what, key, path = found.groups() if found else (said, None, None)
    name = f"{'a key of ' if key else ''}{path or 'it'}"
    if missing := _MISSING.fullmatch(what):
        return f"{name} has no {missing[1]}"
    if other := _OTHER.fullmatch(what):
        return f"{name} must be {other[1]}{other[2] or ''}{f', not {other[3]}' if other[3] else ''}"
    return f"{name}: {what[:1].lower()}{what[1:]}".replace("`", "")
