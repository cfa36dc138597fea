"""What was tuned as the files of a repository: ours in `tuned/`, PEFT's beside it where PEFT has a form for it.

Reads these, and the adapters of PEFT that others publish.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefix_jax import hub
from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.tuning import store
from prefix_jax.tuning.formats import COLLECTIONS, FORMATS, peft
from prefix_jax.tuning.tuned_state import TunedState
from prefix_jax.workdir import METRICS, TUNED

_OURS = [f"{place}{pair.name}.*" for pair in (store.PREFIX, store.COLLECTIONS) for place in ("", f"{TUNED}/")]
_PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")


def fetch(name: str) -> Path:
    """Downloads what was tuned from a repository of the hub, OWNER/NAME or OWNER/NAME@REVISION; returns its folder.

    Raises:
      UserError: the repository holds nothing that was tuned, or as `hub.find`.
    """
    found = hub.find(name, [*_OURS, METRICS, peft.CONFIG])
    if store.find(found.path) is None and (found.path / peft.CONFIG).is_file():
        for file in peft.WEIGHTS:
            found.fetch([file])
            if (found.path / file).is_file():
                break
    elif store.find(found.path) is None:
        raise UserError(
            f'the repository "{name}" holds nothing that was tuned: neither {TUNED}/{store.PREFIX.about} nor '
            f"{TUNED}/{store.COLLECTIONS.about} nor PEFT's {peft.CONFIG}; name it as a model, or check its files"
        )
    return found.path


def is_owned(path: str) -> bool:
    """Returns whether a file of a repository is one of those that `files` writes, beside the card."""
    ours = (f"{TUNED}/", METRICS, peft.CONFIG, *peft.WEIGHTS)
    return path.startswith(ours)


def is_adapter(folder: Path) -> bool:
    """Returns whether a folder holds an adapter of PEFT and nothing of ours."""
    return store.find(folder) is None and folder.is_dir() and peft.is_mine(folder)


def read_about(folder: Path) -> dict[str, Any]:
    """Returns what is known of a tuned state without reading its tensors, as `store.read_about`; of PEFT's too.

    Raises:
      UserError: there is nothing, it is damaged, or PEFT's adapter is of a kind that cannot be read.
    """
    if not is_adapter(folder):
        return store.read_about(folder)
    config, kind = peft.read_config(folder), peft.kind(folder)
    name = _collection(kind) or "prefix"
    if name == "prefix" and kind not in _PREFIXES:
        peft.read(folder, None)  # which refuses it
    section: dict[str, Any] = {}
    if isinstance(rank := config.get("r"), int):
        section |= {"rank": rank, "alpha": float(rank)}  # PEFT's scale is in the matrices
    if isinstance(slots := config.get("num_virtual_tokens"), int):
        section |= {"length": slots, "reparameterisation": "none"}
    own = {"method": name, name: section}
    return {"model": {"name": peft.base_of(folder)}, "method": name, "step": 0, "config": own}


def _collection(kind: str) -> str | None:
    return next((name for name, (kinds, _) in COLLECTIONS.items() if kind in kinds), None)


def load(
    folder: Path, model_config: ModelConfig, identity: Mapping[str, Any] | None = None
) -> tuple[TunedState, dict[str, Any]]:
    """Returns what is kept, and what is known of it, as `store.load`; of PEFT's adapters too.

    PEFT's files name a model, but not its weights: an adapter of another model of the same shapes is not noticed.

    Raises:
      UserError: there is nothing, it is damaged, or it belongs to another model.
    """
    if not is_adapter(folder):
        return store.load(folder, model_config, identity)
    about = read_about(folder)
    name = about["method"]
    if name in COLLECTIONS:
        return TunedState(None, {name: COLLECTIONS[name][1].read(folder, model_config)}), about
    return TunedState(peft.read(folder, model_config)[0]), about


def files(kept: TunedState, meta: Mapping[str, Any], model_config: ModelConfig) -> tuple[dict[str, bytes], str]:
    """Returns the files by path, and why PEFT's are not among them; empty where they are.

    Args:
      kept: what was tuned.
      meta: what its JSON says: `model` and the keys of `store.save`'s `extra`.
      model_config: the model's.
    """
    extra = {name: meta[name] for name in ("method", "step", "config") if name in meta}
    ours = store.encode(kept, meta["model"], model_config, extra)
    own = {f"{TUNED}/{name}": content for name, content in ours.items()}
    try:
        return {**_encoded(kept, meta["model"], model_config), **own}, ""
    except UserError as error:
        return own, str(error)


def _encoded(kept: TunedState, identity: Mapping[str, Any], model_config: ModelConfig) -> dict[str, bytes]:
    """Returns PEFT's files.

    Raises:
      UserError: PEFT has no form for it.
    """
    held = [*(["prefix"] if kept.prefix is not None else []), *kept.collections]
    if len(held) != 1 or held[0] not in ("prefix", *COLLECTIONS):
        raise UserError(f"PEFT has no form for {' and '.join(held)}")
    if held[0] in COLLECTIONS:
        return COLLECTIONS[held[0]][1].encode(kept.collections[held[0]], model_config, identity)
    assert kept.prefix is not None
    if kept.prefix.infix:
        raise UserError("PEFT has no place between source and target, where an infix stands")
    return FORMATS["peft"].encode(kept.prefix, model_config, identity, "prefix")
