"""What a report shows of a run directory; everything but `config.json` may be missing, torn or half written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prefix_jax.workdir import (
    prefix_files,
    read_about_prefix,
    read_config_for_display,
    read_curves,
    read_inspection,
    read_samples,
    read_scores,
)


@dataclass(frozen=True)
class Picture:
    """Magnitude of one site's prefix: mean norms over its slots, `[layers, kv_heads]`.

    `key` and `value` are relative to the model's own keys and values if `relative`, otherwise in the model's units.
    """

    site: str
    key: np.ndarray
    value: np.ndarray
    layers: tuple[int, ...]
    relative: bool


@dataclass(frozen=True)
class Run:
    """Contents of a run directory.

    `record` is `config.json`; `metrics` its lines of scalars; `scores` maps a split to its scores; `prefix` is
    `tuned/prefix.json`, `inspection` is `inspection.json`; `notes` are sentences about unreadable files.
    """

    workdir: Path
    record: Mapping[str, Any]
    metrics: list[dict[str, float]] = field(default_factory=list)
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    prefix: Mapping[str, Any] = field(default_factory=dict)
    inspection: Mapping[str, Any] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> Mapping[str, Any]:
        return _mapping(self.record.get("config"))

    def option(self, name: str, default: Any = None) -> Any:
        """Returns an option by its dotted name, such as `prefix.length`."""
        value: Any = self.config
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Returns steps and values of one scalar, in file order; NaN where the run logged a non-finite value."""
        lines = [line for line in self.metrics if name in line]
        return [line["step"] for line in lines], [line[name] for line in lines]


def read_run(workdir: Path | str) -> Run:
    """Reads a run directory.

    Raises:
        UserError: the directory does not exist, or has no readable `config.json`.
    """
    workdir = Path(workdir)
    record = read_config_for_display(workdir)
    notes: list[str] = []
    prefix = read_about_prefix(workdir, notes)
    samples = read_samples(workdir, notes)
    return Run(
        workdir=workdir,
        record=record,
        metrics=read_curves(workdir, notes),
        scores=read_scores(workdir, notes),
        samples=[line for line in samples if line.get("split") == samples[0].get("split")],  # the one scored last
        prefix=prefix,
        inspection=read_inspection(workdir, notes),
        pictures=_read_pictures(prefix_files(workdir)[1], prefix, notes),
        notes=notes,
    )


def _read_pictures(path: Path, prefix: Mapping[str, Any], notes: list[str]) -> list[Picture]:
    if not path.is_file():
        return []
    try:
        from safetensors.numpy import load_file

        tensors = load_file(path)
        sites = [site for site in ("encoder", "cross", "decoder") if {f"{site}.key", f"{site}.value"} <= tensors.keys()]
        return [_picture(site, tensors[f"{site}.key"], tensors[f"{site}.value"], prefix) for site in sites]
    except Exception as error:  # the page is shown without the picture, whatever is wrong with the file
        notes.append(f"Left out {path.name}, which could not be read ({type(error).__name__}).")
        return []


def _picture(site: str, key_LxHxTxD: np.ndarray, value_LxHxTxD: np.ndarray, prefix: Mapping[str, Any]) -> Picture:
    key, value = (np.linalg.norm(x.astype(np.float32), axis=-1).mean(-1) for x in (key_LxHxTxD, value_LxHxTxD))
    scales = [
        np.asarray(_mapping(prefix.get(f"model_{kind}_norm")).get(site, ()), np.float32) for kind in ("key", "value")
    ]
    # The tuned state may include mean norms of the model's own keys and values, `[layers, kv_heads]`.
    relative = all(scale.shape == key.shape and bool((scale > 0).all()) for scale in scales)
    if relative:
        key, value = key / scales[0], value / scales[1]
    layers = prefix.get("layers")
    layers = layers.get(site) if isinstance(layers, Mapping) else layers
    named = layers if isinstance(layers, list) and len(layers) == len(key) else range(len(key))
    return Picture(site, key, value, tuple(named), relative)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
