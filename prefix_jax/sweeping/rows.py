"""Rows of a sweep: the overrides yielded by a recipe's `sweep()`, as named configurations."""

import inspect
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.options import Config


@dataclass(frozen=True)
class Row:
    """One run of a sweep: the options that differ from the recipe, by dotted name, and the resulting configuration.

    `name` depends only on the options, so that it is stable when rows are added; it names the folder.
    """

    name: str
    overrides: dict[str, Any]
    config: Config


def read_rows(recipe: str, base: Config) -> list[Row]:
    """Returns the rows of the recipe `FILE.py[:ARGUMENT]`.

    Args:
      base: the recipe's configuration, with command-line overrides applied.

    Raises:
      UserError: there is no `sweep()`, it yields nothing, or a row has an unknown option, a value of the wrong type, or
        is a duplicate.
    """
    file, _, argument = recipe.partition(":")
    function = runpy.run_path(file).get("sweep")
    if function is None:
        raise UserError(f"{file} has no sweep(); define one that yields rows, such as {{'prefix.length': 10}}")
    takes = bool(inspect.signature(function).parameters)
    return make_rows(function(argument) if takes and argument else function(), base, Path(file).name)


def make_rows(overrides: Iterable[Mapping[str, Any]], base: Config, source: str = "sweep()") -> list[Row]:
    """Returns rows for the given options; see `read_rows`."""
    found = [_flat(row, number, source) for number, row in enumerate(overrides, start=1)]
    if not found:
        raise UserError(f"the sweep() of {source} yields no rows")
    names = _names(found)
    rows = [
        Row(name, row, _applied(base, row, number, source))
        for number, (name, row) in enumerate(zip(names, found, strict=True), start=1)
    ]
    for number, row in enumerate(rows):
        for other in rows[:number]:
            if row.config.to_json() == other.config.to_json():
                raise UserError(f"the sweep() of {source} yields the row {row.name} twice")
    return rows


def _flat(row: Any, number: int, source: str) -> dict[str, Any]:
    if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
        raise UserError(
            f"row {number} of the sweep() of {source} is not a dictionary of options; yield "
            f"{{'prefix.length': 10}}, say"
        )
    return dict(row)


def _applied(base: Config, row: Mapping[str, Any], number: int, source: str) -> Config:
    config = base.copy_and_resolve_references()
    known = [f"{section}.{name}" for section in config for name in _names_in(config[section])] + ["method"]
    for name, value in row.items():
        if name not in known:
            raise UserError(
                f'row {number} of the sweep() of {source} has an option "{name}"{did_you_mean(name, known)}'
            )
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError):
            kind = type(value_of(base, name)).__name__
            raise UserError(
                f"row {number} of the sweep() of {source} sets {name} to {value!r}; it must be of type {kind}"
            ) from None
    return config


def _names_in(section: Any) -> list[str]:
    return list(section) if hasattr(section, "keys") else []


def value_of(config: Config, name: str) -> Any:
    """Returns the value of an option by its dotted name."""
    for part in name.split("."):
        config = config[part]
    return config


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns names such as "length=10,seed=1", with the last part of an option's name if that is unique."""
    options = {option for row in rows for option in row}
    last = [option.rpartition(".")[2] for option in options]
    names = []
    for row in rows:
        parts = []
        for option, value in row.items():
            word = option.rpartition(".")[2]
            parts.append(f"{word if last.count(word) == 1 else option}={value}")
        name = re.sub(r"[^\w.=,+-]+", "-", ",".join(parts))[:120].strip("-") or "recipe"
        alike = sum(1 for other in names if other.partition("~")[0] == name)
        names.append(f"{name}~{alike + 1}" if alike else name)
    return names
