"""From a run to the files of a repository, and these to the hub."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefix_jax import hub
from prefix_jax.data.data_set import IN_MEMORY
from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained.aliases import ALIASES, hub_id
from prefix_jax.sharing.card import Card
from prefix_jax.tuning import TunedState, repository, store
from prefix_jax.workdir import METRICS, TUNED, is_run, read_config, read_curves, read_scores

CARD = "README.md"
_SHOWN = ("prefix_jax", "jax", "flax", "optax", "transformers")


@dataclass(frozen=True)
class Run:
    """What a run leaves.

    Attributes:
      kept: what was tuned.
      meta: what its JSON says: the model's identity, the method, the step, the options.
      model_config: the model's.
      record: `config.json`.
      metrics: the lines of `metrics.jsonl`.
      scores: `scores.json`.
    """

    kept: TunedState
    meta: Mapping[str, Any]
    model_config: ModelConfig
    record: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    scores: Mapping[str, Any] = field(default_factory=dict)


def of_run(folder: Path) -> Run:
    """Reads a run directory, or the `tuned/` folder of one.

    Raises:
      UserError: nothing was tuned there, or it is damaged.
    """
    kept, meta = store.load(folder)
    model_config = store.model_config_of(meta)
    if model_config is None:
        raise UserError(f"{folder} does not say which model it is for; train again with this version, or convert it")
    run = folder.resolve().parent if folder.resolve().name == TUNED and not is_run(folder) else folder
    record = read_config(run) if is_run(run) else {}
    return Run(kept, meta, model_config, record, read_curves(run), read_scores(run))


def contents(run: Run, name: str, base: str = "", license: str = "") -> dict[str, bytes]:
    """Returns the files of a repository, by path: the card, ours, and PEFT's where PEFT has a form for them.

    No file names a directory of this machine.

    Args:
      run: what is shared.
      name: OWNER/NAME of the repository.
      base: the base model's name on the hub, where it was loaded from a directory.
      license: as the hub names it, such as apache-2.0; empty: that of the base model.

    Raises:
      UserError: a score is of a task that is not known.
    """
    identity = _public(run.meta["model"], base)
    config = _public_options(run.meta.get("config") or {}, identity["name"])
    meta = {**run.meta, "model": identity, "config": config}
    files, missing = repository.files(run.kept, meta, run.model_config)
    base = base or ("" if identity.get("source") == "directory" else hub_id(identity["name"]))
    card = Card(
        name=name,
        base=base,
        source=identity["name"],
        config=config,
        numbers=run.kept.count(),
        step=int(run.meta.get("step") or 0),
        scores=run.scores,
        data_name=_data_name(run.meta.get("config") or {}),
        in_peft=missing,
        is_rounded=identity["name"] in ALIASES,
        is_encoder_decoder=run.model_config.is_encoder_decoder,
        license=license or (hub.license_of(base) if base else ""),
        versions={n: v for n, v in (run.record.get("versions") or {}).items() if n in _SHOWN},
    )
    lines = "".join(json.dumps(line) + "\n" for line in run.metrics)
    return {CARD: card.text().encode(), **files, **({METRICS: lines.encode()} if lines else {})}


def _public(identity: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Returns a model's identity with its name on the hub, or else without the directory it was in."""
    if identity.get("source", "directory") != "directory":
        return dict(identity)
    return {**identity, "name": base or Path(str(identity.get("name") or "model")).name} | (
        {"source": "hub"} if base else {}
    )


def _public_options(config: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Returns a run's options without the places of this machine."""
    found = {name: dict(part) if isinstance(part, Mapping) else part for name, part in config.items()}
    if "model" in found:
        found["model"]["source"] = model
    if found.get("data", {}).get("path") not in ("", None, IN_MEMORY):
        found["data"]["path"] = ""
    found.pop("mesh", None)
    if "training" in found:
        found["training"].pop("wandb", None)
    return found


def _data_name(config: Mapping[str, Any]) -> str:
    path = str((config.get("data") or {}).get("path") or "")
    return path if path == IN_MEMORY else Path(path).name


def publish(run: Run, name: str, *, private: bool = False, token: str | None = None, **about: str) -> str:
    """Uploads the files of `contents` as one commit, and returns the repository's address.

    Args:
      run: what is shared.
      name: OWNER/NAME of the repository, created if it is absent.
      private: whether only its owner may see it.
      token: None: HF_TOKEN, or that of `hf auth login`.
      **about: `base` and `license` of `contents`.

    Raises:
      UserError: as `contents` and `hub.upload`.
    """
    if not hub.is_name(name) or "@" in name:
        raise UserError(f'"{name}" is not a repository; name one as OWNER/NAME, such as someone/gull')
    files = contents(run, name, **about)
    message = f"Upload {run.meta.get('method', 'what was tuned')} with prefix_jax"
    return hub.upload(name, files, message=message, private=private, token=token, owned=repository.is_owned)


def with_scores(run: Run, split: str, scores: Mapping[str, float], records: int) -> Run:
    """Returns the run with other scores of a split."""
    entry = {"tuned": dict(scores), **({"records": records} if records else {})}
    return dataclasses.replace(run, scores={**run.scores, split: entry})
