"""Whether a run that is resumed is the same: its options by what they mean, its model by its numbers, not its path."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefix_jax import tasks
from prefix_jax.config import default_config, flat
from prefix_jax.errors import UserError
from prefix_jax.models.pretrained import Identity, same_model
from prefix_jax.training import soundness
from prefix_jax.tuning.lora import TARGETS
from prefix_jax.tuning.method import METHODS
from prefix_jax.tuning.store import model_of

if TYPE_CHECKING:
    from prefix_jax.training.session import Session

# What a resumed run may change: its length, its intervals and its logging, and how text is generated afterwards.
MAY_CHANGE = (
    "training.steps",
    "training.epochs",
    "training.log_every",
    "training.evaluate_every",
    "training.checkpoint_every",
    "training.tensorboard",
    "training.wandb",
    "data.path",
    "data.keep_special_tokens",
    "data.language",
    "data.strict",
    "decoding.",
    "evaluation.",
    "mesh.",
    "model.attention",
)
# Lists in which the order says nothing.
_SETS = ("prefix.sites", "infix.sites", "lora.targets", "adapter.places", "prefix.layers", "infix.layers")
_CATEGORIES = ("data.categories", "data.test_categories")


def ground(session: "Session") -> dict[str, Any]:
    """Returns what a run stands on beside its options: the model's identity, its numbers and its tokenizer's files."""
    return {
        "model": {**session.pretrained.identity, "numbers": checksum(session)},
        "tokenizer": session.pretrained.tokenizer_files,
    }


def checksum(session: "Session") -> str:
    """Returns a hash of every number of the frozen weights as they are in memory, the same on any mesh."""
    config = session.config.model
    return f"{config.dtype} {config.quantisation} {soundness.checksum(session.pretrained.params, {})[:16]}"


def fixed(config: Any) -> dict[str, Any]:
    """Returns the options of a run that its checkpoints depend on, by dotted name, each by what it means."""
    options = flat(_plain(config))
    used = set(_methods(options["method"]))
    return {name: _meaning(name, value) for name, value in options.items() if not _free(name, used)}


def refuse_other(
    workdir: Path, before: Mapping[str, Any], wanted: dict[str, Any], now: Mapping[str, Any] | None
) -> None:
    """Raises UserError naming in what a run directory's run differs from the one that is wanted.

    Args:
      workdir: the run directory.
      before: its `config.json`; a run of an earlier version may lack any option, the model and the tokenizer.
      wanted: the configuration, in JSON's types.
      now: what `ground` says of the model at hand; None where it was not opened.
    """
    # An option that a run of an earlier version does not name had the value that is its default now.
    old, new = {**flat(_plain(default_config())), **flat(before["config"])}, flat(wanted)
    used = set(_methods(old["method"])) | set(_methods(new.get("method", "")))
    changed = [
        f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if not _free(name, used) and _meaning(name, old.get(name)) != _meaning(name, new.get(name))
    ]
    changed += _other_model(workdir, before, old["model.source"], new.get("model.source", ""), now)
    if changed:
        shown = "; ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise UserError(f"{workdir} holds a run with another configuration ({shown}); choose another --workdir")


def say_other_tokenizer(workdir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Prints a line where the files of the tokenizer are not those that the run began with."""
    if before.get("tokenizer") and now.get("tokenizer") and before["tokenizer"] != now["tokenizer"]:
        name = now["model"].get("name", "the model")
        print(
            f"warning: the tokenizer's files of {name} are not those with which the run in {workdir} began; where they "
            "turn text into other ids, what was tuned does not fit: restore them, or choose another --workdir",
            file=sys.stderr,
        )


def spelled(config: Any, before: Mapping[str, Any]) -> Any:
    """Returns the configuration with its methods in the order of the earlier run, on which their start depends."""
    method = before.get("config", {}).get("method", config.method)
    if method == config.method or _methods(method) != _methods(config.method):
        return config
    config = config.copy_and_resolve_references()
    config.method = method
    return config


def _other_model(
    workdir: Path, before: Mapping[str, Any], old: str, new: str, now: Mapping[str, Any] | None
) -> list[str]:
    """What is wrong with the model, by its weights where both are known, else by its path."""
    recorded: Identity = before.get("model") or model_of(workdir)
    here: Identity = (now or {}).get("model") or {}
    if recorded.get("weights") and here.get("weights"):
        numbers = [identity.get("numbers") for identity in (recorded, here)]
        # Of another type of numbers, which is an option of its own, they say nothing.
        alike = not all(numbers) or numbers[0] == numbers[1] or _type(numbers[0]) != _type(numbers[1])
        if same_model(recorded, here) and alike:
            return []
        where = f"{new} has" if old == new else f"model.source was {old!r} and is now {new!r}, with"
        return [f"{where} other weights than the run began with"]
    if _place(old) == _place(new):
        return []
    unknown = "" if recorded.get("weights") else ", and the run does not say which weights it began with"
    return [f"model.source was {old!r} and is now {new!r}{unknown}"]


def _type(numbers: str | None) -> str:
    return str(numbers).rpartition(" ")[0]


def _place(source: str) -> str:
    """A directory by where it lies, anything else by its name."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() or source.startswith(("/", ".", "~")) else source


def _free(name: str, used: set[str]) -> bool:
    """Whether an option may change: it is of the kind, the model's place, or of a method that is not used."""
    section = name.partition(".")[0]
    return name.startswith(MAY_CHANGE) or name == "model.source" or (section in METHODS and section not in used)


def _meaning(name: str, value: Any) -> Any:
    """The same for values that mean the same."""
    if not isinstance(value, str):
        return value
    if name == "data.task":
        return tasks.current_name(value)
    if name == "method":
        return _methods(value)
    if name in _CATEGORIES:
        return [value.startswith("-"), _parts(value.removeprefix("-"))]
    if name in _SETS:
        return sorted(TARGETS) if name == "lora.targets" and value == "all" else _parts(value)
    return value


def _parts(text: str) -> list[str]:
    return sorted({part.strip() for part in text.split(",") if part.strip()})


def _methods(text: str) -> list[str]:
    return sorted(part.strip() for part in str(text).split("+"))


def _plain(config: Any) -> Any:
    return json.loads(config.to_json())
