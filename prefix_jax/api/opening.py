"""Models and tuned states from names and files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefix_jax import inference
from prefix_jax.api.configuring import user_errors, with_options
from prefix_jax.api.language_model import LanguageModel
from prefix_jax.api.results import History
from prefix_jax.api.tuned import Tuned
from prefix_jax.compile_cache import keep_programs
from prefix_jax.config import default_config
from prefix_jax.training.session import open_session
from prefix_jax.tuning import repository
from prefix_jax.workdir import TUNED, is_run, read_config, read_curves

_SOURCE = "model.source"


def load_model(
    source: str | os.PathLike,
    *,
    dtype: str = "float32",
    quantisation: str = "none",
    options: Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Loads a language model, which is never changed.

    Compiled programs are kept in the user's cache directory, or where `$JAX_COMPILATION_CACHE_DIR` says.

    Args:
      source: `flan-t5-small` or `smollm2-135m` (from a wheel), a directory, a GGUF file, or a hub id.
      dtype: float32 or bfloat16.
      quantisation: "int8": the frozen matrices in 8 bits; or "none".
      options: others of the sections `model` and `mesh` by dotted name, such as `{"mesh.fsdp": 8}`.

    Raises:
      UserError: the model does not exist, cannot be downloaded, is damaged, or is not supported.

    >>> lm = pj.load_model(model_dir)
    >>> lm.config.layers, lm.config.d_model
    (2, 32)
    """
    named = {"model.source": os.fspath(source), "model.dtype": dtype, "model.quantisation": quantisation}
    config = with_options(default_config(), named | dict(options or {}))
    with user_errors():
        keep_programs()
        return LanguageModel(open_session(config))


def load(
    path: str | os.PathLike, model: LanguageModel | None = None, *, options: Mapping[str, Any] | None = None
) -> Tuned:
    """Loads what was tuned, and the model it was tuned on.

    Args:
      path: a folder that `Tuned.save`, `tune` or the command `train` wrote, one with a prefix, prompt or LoRA of PEFT,
        or a repository of the hub with one of these: "user/name" or "user/name@revision".
      model: the model, if it is loaded already; another one is refused.
      options: options that replace those of the run, by dotted name, such as `{"model.source": "elsewhere"}`.

    Raises:
      UserError: nothing was tuned there, it is damaged, it belongs to another model, or it cannot be downloaded.

    >>> folder = tuned.save(tmp / "gull")
    >>> pj.load(folder)
    Tuned('tiny-gpt2', prefix, 384 numbers, 4 steps)
    """
    changes = dict(options or {})
    opened = None if model is None else model._session
    if opened is not None:
        changes = {**inference.of_model(opened), **changes}
    with user_errors():
        if opened is None:
            keep_programs()
        folder = inference.located(path)
        config = with_options(inference.configured(folder, {k: changes[k] for k in changes if k == _SOURCE}), changes)
        found = inference.open_configured(folder, config, opened)
        run = folder.parent if folder.name == TUNED and not is_run(folder) else folder
        record = read_config(run) if is_run(run) and not repository.is_adapter(folder) else {}
        step = int(repository.read_about(folder).get("step") or 0)
        history, downloaded = History.of(read_curves(run)), not Path(path).expanduser().exists()
        workdir = None if downloaded else run
        return Tuned(found.session, found.kept, history=history, record=record, workdir=workdir, step=step)
