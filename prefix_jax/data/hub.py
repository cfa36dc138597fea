"""Data sets from the Hugging Face hub; the only module that imports `datasets`."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prefix_jax import hub
from prefix_jax.data.files import Row
from prefix_jax.errors import UserError, first_line


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub.

    Attributes:
      id: OWNER/NAME.
      configuration: its configuration, or a function of the columns that returns it.
      validation: the hub's name of the validation split, or a part of another split.
      train: the same of the training split.
    """

    id: str
    configuration: str | Callable[[Any], str] | None = None
    validation: str = "validation"
    train: str = "train"


@dataclass(frozen=True)
class HubTable:
    """Rows of a split, and the name of the data set: id, configuration, and the revision if known."""

    rows: list[Row]
    name: str


def rows(wanted: HubSet, task: str, split: str, columns: Any, tried: str) -> HubTable:
    """Downloads a split's rows; UserError if that fails. `tried` describes earlier attempts for the message."""
    name, configuration = wanted.id, wanted.configuration
    if callable(configuration):
        configuration = configuration(columns)
    try:
        own = {"train": wanted.train, "validation": wanted.validation}
        table = _load(name, configuration, own.get(split, split))
    except Exception as error:  # `datasets` has no common base class for its errors
        reason = first_line(error)[:160]
        raise UserError(
            f'The {split} split of "{task}" was not found: {tried}, and {name} could not be loaded from the hub '
            f"({reason}); set --config.data.path or PREFIX_JAX_DATA to where the files are."
        ) from None
    found = [(f"row {number} of {name} ({split})", row) for number, row in enumerate(table, 1)]
    about = ", ".join(part for part in (configuration, _revision(table)) if part)
    return HubTable(found, f"{name} from the hub" + (f" ({about})" if about else ""))


def _revision(table: Any) -> str:
    """Returns the commit hash, which names a folder of the cache."""
    files = getattr(table, "cache_files", None) or [{"filename": ""}]
    found = re.search(r"[/\\]([0-9a-f]{40})[/\\]", files[0]["filename"])
    return f"revision {found[1]}" if found else ""


def _load(name: str, configuration: str | None, split: str) -> Any:
    import datasets

    print(f"Asking the hub for {name} ...", file=sys.stderr)
    with hub.quiet(), _from_cache_where_out_of_reach(name):
        try:
            return datasets.load_dataset(name, configuration, split=split)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # Data sets with a loading script: the hub converts them to Parquet in a separate branch.
            return datasets.load_dataset(name, configuration, split=split, revision="refs/convert/parquet")


@contextlib.contextmanager
def _from_cache_where_out_of_reach(name: str) -> Iterator[None]:
    """Makes `datasets` read only its cache if the hub is unreachable: it would retry for 23 seconds first."""
    import datasets.config

    switches: tuple[Any, ...] = (datasets.config, hub.settings())
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    offline = not hub.answers(name, "dataset")
    try:
        for switch in switches if offline else ():
            switch.HF_HUB_OFFLINE = True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value
