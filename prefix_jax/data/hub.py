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

_CONVERTED = "refs/convert/parquet"


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
    own = {"train": wanted.train, "validation": wanted.validation}
    try:
        table, commit = _load(name, configuration, own.get(split, split))
    except Exception as error:  # `datasets` has no common base class for its errors
        raise UserError(
            f'The {split} split of "{task}" was not found: {tried}, and {name} could not be loaded from the hub: '
            f"{_reason(error, name)}; or set --config.data.path or PREFIX_JAX_DATA to where the files are."
        ) from None
    found = [(f"row {number} of {name} ({split})", row) for number, row in enumerate(table, 1)]
    about = ", ".join(part for part in (configuration, f"revision {commit}" if commit else "") if part)
    return HubTable(found, f"{name} from the hub" + (f" ({about})" if about else ""))


def _reason(error: Exception, name: str) -> str:
    try:
        return str(error if isinstance(error, UserError) else hub.problem(error, name, "dataset"))
    except Exception as other:  # not one of the hub
        return first_line(other)[:160]


def _load(name: str, configuration: str | None, split: str) -> tuple[Any, str]:
    """Returns a split and the commit that it is of; the empty string where that is not known."""
    print(f"Asking the hub for {name} ...", file=sys.stderr)
    about = hub.about(name, "dataset")
    with hub.quiet(), _only_cached() if about.problem else contextlib.nullcontext():
        if about.problem is None:
            if f"{name.split('/')[-1]}.py" in about.files:  # a loading script, which is never run
                return _load_converted(name, configuration, split)
            return _load_files(name, configuration, split)
        for load in (_load_files, _load_converted):
            with contextlib.suppress(Exception):  # `datasets` has no common base class for its errors
                found = load(name, configuration, split)
                print(f"Using {name} from the cache: {about.problem}", file=sys.stderr)
                return found
    raise about.problem


def _load_files(name: str, configuration: str | None, split: str) -> tuple[Any, str]:
    import datasets

    table = hub.patiently(lambda: datasets.load_dataset(name, configuration, split=split), hub.was_cut)
    files = getattr(table, "cache_files", None) or [{"filename": ""}]
    commit = re.search(r"[/\\]([0-9a-f]{40})[/\\]", files[0]["filename"])  # it names a folder of the cache
    return table, commit[1] if commit else ""


def _load_converted(name: str, configuration: str | None, split: str) -> tuple[Any, str]:
    """Loads a set that has a loading script: the hub keeps it as CONFIGURATION/SPLIT/*.parquet in a branch."""
    import datasets

    folder = split.partition("[")[0]
    pattern = f"{configuration or '*'}/{folder}/*.parquet"
    found = hub.find(f"{name}@{_CONVERTED}", [pattern], kind="dataset")
    files = sorted(str(file) for file in found.path.glob(pattern))
    if not files:
        raise UserError(f"it has a loading script, which is never run, and the hub has not converted its split {split}")
    return datasets.load_dataset("parquet", data_files={folder: files}, split=split), found.commit


@contextlib.contextmanager
def _only_cached() -> Iterator[None]:
    """Makes `datasets` read only its cache: where the hub does not answer, it would retry for 23 seconds first."""
    import datasets.config

    switches: tuple[Any, ...] = (datasets.config, hub.settings())
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value
