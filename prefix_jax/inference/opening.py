"""A frozen model together with what was tuned for it, from the files of a run."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from prefix_jax import disk, hub, tasks
from prefix_jax.config import ConfigDict, default_config
from prefix_jax.data.tokens import plain_formats
from prefix_jax.errors import UserError
from prefix_jax.models.adapter_layers import LORA, TUNED
from prefix_jax.options import Config, flat
from prefix_jax.parallel import distributed
from prefix_jax.training.session import Session, model_options, open_session
from prefix_jax.tuning import TunedState, lora, repository


@dataclass(frozen=True)
class Tuned:
    """A frozen model with its tuned state."""

    session: Session
    kept: TunedState
    sha256: str | None


def located(place: str | os.PathLike) -> Path:
    """Returns the folder of what was tuned: the one named, or where none is, that of a repository of the hub.

    Raises:
      UserError: the repository cannot be downloaded, or holds nothing that was tuned.
    """
    folder = Path(disk.expanded(str(place)))
    return repository.fetch(str(place)) if hub.is_name(str(place)) and not folder.exists() else folder


def open_tuned(
    folder: str | os.PathLike, overrides: dict[str, Any] | None = None, opened: Session | None = None
) -> Tuned:
    """Loads what was tuned, and the model it was tuned on.

    Args:
      folder: a `tuned/` folder, the run directory that contains it, a folder with an adapter of PEFT, or a repository
        of the hub with one of these: OWNER/NAME or OWNER/NAME@REVISION.
      overrides: options that replace those of the run, by dotted name.
      opened: a session that may already have loaded the model.

    Raises:
      UserError: nothing was tuned, or it does not match the model.
    """
    folder = located(folder)
    return open_configured(folder, configured(folder, overrides), opened)


def configured(folder: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Returns the configuration that `open_tuned` would use for a folder, without loading the model.

    Raises:
      UserError: nothing was tuned, or an option is out of range.
    """
    meta = repository.read_about(folder)
    config = merged(meta.get("config") or {}, overrides or {})
    config.model.source = (overrides or {}).get("model.source") or _source(folder, meta)
    return config


def open_configured(folder: Path, config: Config, opened: Session | None = None) -> Tuned:
    """Does what `open_tuned` does, with the configuration that `configured` returned."""
    if opened is None or model_options(opened.config) != model_options(config):
        opened = open_session(config)
    if repository.is_adapter(folder) and not config.data.source_format:
        config = config.copy_and_resolve_references()
        plain = plain_formats(opened.tokenizer, opened.model_config.is_encoder_decoder)
        config.data.source_format = plain.source  # PEFT's adapters say nothing of a format
    opened = opened.of(config)
    kept, meta = repository.load(folder, opened.model_config, opened.pretrained.identity)
    # Numpy arrays, which every process may pass to a program on all devices.
    return Tuned(opened, jax.device_get(kept) if distributed.is_multiprocess() else kept, meta.get("sha256"))


def of_model(opened: Session) -> dict[str, Any]:
    """Returns the options of a session's model and mesh, by dotted name."""
    return flat({part: opened.config[part].to_dict() for part in ("model", "mesh")})


def open_several(folders: Mapping[str, Path], overrides: dict[str, Any] | None = None) -> dict[str, Tuned]:
    """Loads tuned states of one model by name, and the model once.

    Raises:
      UserError: as `open_tuned`, or they were tuned on different models.
    """
    found: dict[str, Tuned] = {}
    opened: Session | None = None
    for name, place in folders.items():
        folder = located(place)
        here = {} if opened is None else of_model(opened)
        found[name] = open_configured(folder, configured(folder, {**here, **(overrides or {})}), opened)
        opened = opened or found[name].session
    return found


def _source(folder: Path, meta: dict[str, Any]) -> str:
    """Returns the source of the tuned model: the recorded path, or as the run's options name it.

    Raises:
      UserError: neither exists.
    """
    recorded = meta["model"].get("name") or ""
    saved = (meta.get("config") or {}).get("model")
    asked = (saved.get("source") if isinstance(saved, dict) else "") or recorded
    if not recorded:
        raise UserError(f"{folder} does not say which model it was tuned on; add --config.model.source=DIR")
    if meta["model"].get("source") == "directory" and not os.path.isabs(recorded):  # shared without its place
        raise UserError(
            f'{folder} was tuned on a model in a directory "{recorded}", which has no name on the hub; say where it is '
            "with --config.model.source=DIR"
        )
    if not os.path.isabs(recorded) or os.path.isdir(recorded):
        return recorded
    if os.path.isdir(os.path.expanduser(asked)):
        return asked  # its weights are compared later
    raise UserError(
        f"the model that {folder} was tuned on was in {recorded}, which does not exist now; say where it is with "
        "--config.model.source=DIR"
    )


def with_merged_lora(tuned: Tuned) -> Tuned:
    """Merges LoRA's updates into copies of the model's matrices, of the same dtype, so that generation is as fast as
    with the bare model. A prefix or an adapter is preserved.

    Raises:
      UserError: the tuned state has no LoRA, or it cannot be merged.
    """
    others = dict(tuned.kept.collections)
    updates = others.pop(LORA, None)
    if updates is None:
        raise UserError("what was tuned holds no LoRA, so there is nothing to merge")
    if TUNED in others:
        raise UserError("updates cannot be merged where fine-tuned weights take the place of the model's")
    opened = tuned.session
    params, sharder = opened.base["params"], opened.sharder
    where = None if sharder is None else sharder.base(params)
    params = jax.jit(lora.merged, out_shardings=where)(params, updates)
    whole = dataclasses.replace(opened, base={**opened.base, "params": params})
    return dataclasses.replace(tuned, session=whole, kept=TunedState(tuned.kept.prefix, others))


def _restore(section: Config, option: str, value: Any, path: str) -> None:
    """Sets an option of a run, whose type is that of its default."""
    kind = type(section[option])
    try:
        if value is None and section[option] is not None:
            raise TypeError
        section[option] = value
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"the configuration saved with what was tuned has {path}={value!r}, which must be of type "
            f"{kind.__name__}; copy it again from the run"
        ) from None


def merged(saved: dict[str, Any], overrides: dict[str, Any]) -> Config:
    """Returns the defaults, updated with a run's options and then the overrides.

    The mesh is that of the current devices, not of those used for training.

    Raises:
      UserError: an option of the run has another type.
    """
    config = default_config(str(saved.get("method", default_config().method)))
    for name, section in saved.items():
        if name not in config or name == "mesh":
            continue
        if not isinstance(section, dict):
            _restore(config, name, section, name)
            continue
        for option, value in section.items() if isinstance(config[name], ConfigDict) else ():
            if option in config[name]:
                _restore(config[name], option, tuple(value) if isinstance(value, list) else value, f"{name}.{option}")
    config.update_from_flattened_dict(overrides)
    config.data.task = tasks.current_name(config.data.task)
    return config
