"""Comparison of a resumed run with the original: options by meaning, the model by its weights rather than its path."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefix_jax import tasks
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.models.pretrained import Identity, same_model
from prefix_jax.options import flat
from prefix_jax.training import soundness
from prefix_jax.training.given import differences
from prefix_jax.tuning import METHODS, Declaration, declared, parts
from prefix_jax.tuning.store import model_of

if TYPE_CHECKING:
    from prefix_jax.training.session import Session

# Options that a resumed run may change: its length, intervals, logging, and later text generation.
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
    "task.answer",
    "task.normalisation",
    "task.calibrated",
    "task.boundary",
    "mesh.",
    "model.attention",
)
_CATEGORIES = ("data.categories", "data.test_categories")


def ground(session: "Session") -> dict[str, Any]:
    """Returns what a run depends on besides its options: the model's identity, weights and tokenizer files, and records
    in memory.
    """
    return {
        "model": {**session.pretrained.identity, "numbers": checksum(session)},
        "tokenizer": session.pretrained.tokenizer_files,
        **(session.held.record() if session.held is not None else {}),
    }


def checksum(session: "Session") -> str:
    """Returns a hash of all frozen weights in memory, independent of the mesh."""
    config = session.config.model
    return f"{config.dtype} {config.quantisation} {soundness.checksum(session.pretrained.params, {})[:16]}"


def fixed(config: Any) -> dict[str, Any]:
    """Returns the options that determine a run's checkpoints, normalised, by dotted name."""
    options = flat(_plain(config))
    used = declared(options["method"])
    return {name: _meaning(name, value, used) for name, value in options.items() if not _free(name, used)}


def refuse_other(
    workdir: Path, before: Mapping[str, Any], wanted: dict[str, Any], now: Mapping[str, Any] | None
) -> None:
    """Raises UserError that names the differences between a run directory's run and the requested one.

    Args:
      workdir: run directory.
      before: its `config.json`; runs of earlier versions may lack options, the model and the tokenizer.
      wanted: the configuration, as JSON types.
      now: result of `ground` for the loaded model; None if it was not opened.
    """
    # A run of an earlier version that lacks an option used the value that is its default now.
    old, new = {**flat(_plain(default_config())), **flat(before["config"])}, flat(wanted)
    used = declared(old["method"]) | declared(new.get("method", old["method"]))
    changed = [
        f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if not _free(name, used) and _meaning(name, old.get(name), used) != _meaning(name, new.get(name), used)
    ]
    changed += [] if now is None else differences(before, now)
    changed += _other_model(workdir, before, old["model.source"], new.get("model.source", ""), now)
    if changed:
        shown = "; ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise UserError(f"{workdir} holds a run with another configuration ({shown}); choose another --workdir")


def say_other_tokenizer(workdir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Prints a warning if the tokenizer's files differ from those at the start of the run."""
    if before.get("tokenizer") and now.get("tokenizer") and before["tokenizer"] != now["tokenizer"]:
        name = now["model"].get("name", "the model")
        print(
            f"warning: the tokenizer's files of {name} are not those with which the run in {workdir} began; where they "
            "turn text into other ids, what was tuned does not fit: restore them, or choose another --workdir",
            file=sys.stderr,
        )


def say_other_inputs(workdir: Path, before: Mapping[str, Any], now: Mapping[str, Mapping[str, str]]) -> None:
    """Prints a warning for each split whose files differ from those at the start of the run."""
    for split, files in now.items():
        earlier = before.get("inputs", {}).get(split)
        if earlier and sorted(earlier.values()) != sorted(files.values()):
            print(
                f"warning: the files of the {split} split ({', '.join(files)}) are not those with which the run in "
                f"{workdir} began, by their hashes: restore them, or choose another --workdir",
                file=sys.stderr,
            )


def spelled(config: Any, before: Mapping[str, Any]) -> Any:
    """Returns the configuration with methods in the order of the earlier run, which determines their initialisation."""
    method = before.get("config", {}).get("method", config.method)
    if method == config.method or _methods(method) != _methods(config.method):
        return config
    config = config.copy_and_resolve_references()
    config.method = method
    return config


def _other_model(
    workdir: Path, before: Mapping[str, Any], old: str, new: str, now: Mapping[str, Any] | None
) -> list[str]:
    """Returns the difference between models, by weights if both are known, otherwise by path."""
    recorded: Identity = before.get("model") or model_of(workdir)
    here: Identity = (now or {}).get("model") or {}
    if recorded.get("weights") and here.get("weights"):
        numbers = [identity.get("numbers") for identity in (recorded, here)]
        # Under another dtype, which is a separate option, fingerprints cannot be compared.
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
    """Returns a directory as a resolved path, any other source by name."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_dir() or source.startswith(("/", ".", "~")) else source


def _free(name: str, used: Mapping[str, Declaration]) -> bool:
    """Whether an option may change: it is of the kind, the model's place, or of a method that is not used."""
    section = name.partition(".")[0]
    return name.startswith(MAY_CHANGE) or name == "model.source" or (section in METHODS and section not in used)


def _meaning(name: str, value: Any, used: Mapping[str, Declaration]) -> Any:
    """The same for values that mean the same."""
    if not isinstance(value, str):
        return value
    if name == "data.task":
        return tasks.current_name(value)
    if name == "method":
        return _methods(value)
    if name in _CATEGORIES:
        return [value.startswith("-"), _parts(value.removeprefix("-"))]
    section, _, option = name.partition(".")
    if section in used and option in used[section].sets:
        return sorted(used[section].all_of.get(option, ("all",))) if value == "all" else _parts(value)
    return value


def _parts(text: str) -> list[str]:
    return sorted({part.strip() for part in text.split(",") if part.strip()})


def _methods(text: str) -> list[str]:
    return sorted(parts(text))


def _plain(config: Any) -> Any:
    return json.loads(config.to_json())
