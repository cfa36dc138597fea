"""`tune`: a run from Python, the same as that of the command `train`."""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefix_jax import decoding
from prefix_jax.api.configuring import Methods, method_name, user_errors, with_options
from prefix_jax.api.data import Source, source_of
from prefix_jax.api.language_model import LanguageModel, configuration
from prefix_jax.api.opening import load_model
from prefix_jax.api.results import History
from prefix_jax.api.tuned import Tuned
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.options import Config
from prefix_jax.parallel import distributed
from prefix_jax.training import conversations, pipeline, selection
from prefix_jax.training.given import Given
from prefix_jax.training.loss import loss_sums
from prefix_jax.training.session import Session
from prefix_jax.tuning import Prefix, store
from prefix_jax.workdir import read_config, read_curves


def tune(
    model: LanguageModel | str,
    data: Any,
    method: Methods | None = None,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    validation: Any = None,
    seed: int | None = None,
    optimizer: Any = None,
    loss: Callable | None = None,
    source: str = "source",
    target: str = "target",
    workdir: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> Tuned:
    """Tunes a method on a frozen model; shows a progress bar in terminals and notebooks.

    The run is that of `python -m prefix_jax.train` with the same options and data, bit for bit. With a `workdir`, the
    same call resumes a run that was stopped.

    Args:
      model: what `load_model` returned, or what it takes.
      data: (source, target) pairs, rows as mappings, a mapping of columns, a pandas DataFrame, a `datasets.Dataset`,
        or a generator of pairs or rows; a mapping of the splits train, validation and test of these; a file or a
        folder, or a list of files; or a task's name. A target may be a list of texts. Rows with `messages` are
        conversations; with `options={"data.task": "chat"}`, rows of a prompt and a response are too.
      method: `Prefix()`, `LoRA()`, `Prompt()`, `Infix()`, `Adapter()`, `Finetune()`, several as `Prefix() | LoRA()`,
        or the value of `config.method`; None: `Prefix()`.
      steps: length of the run; None: `epochs`.
      epochs: length of the run in passes over the data; None: 1.
      learning_rate: the peak; None: the default of the section `optimizer`.
      validation: pairs and the like, whose loss is measured; None: those of `data`, if it is a task, a file or splits.
      seed: of initialisation and dropout (`training.seed`).
      optimizer: an optax optimizer in place of AdamW with its schedule.
      loss: `(model, variables, prefix, batch) -> (sum of losses, sum of weights)` in place of `prefix_jax.loss`.
      source: the column of sources in rows.
      target: the column of targets in rows.
      workdir: the run directory, created or resumed; None: a temporary one, removed afterwards.
      options: any options by dotted name, such as `{"training.batch": 8}`; `prefix_jax/config.py` documents them.

    Raises:
      UserError: an option, the data or the run directory is invalid, or the loss is not finite.
      KeyboardInterrupt: the run was interrupted; its last step is saved in `workdir`.

    >>> tuned = pj.tune(lm, pairs, pj.Prefix(length=3, hidden=16), steps=4, options={"training.batch": 4})
    >>> tuned.prefix.decoder.key.shape
    (2, 4, 3, 8)
    """
    lm = model if isinstance(model, LanguageModel) else load_model(model)
    method = Prefix() if method is None else method
    given = Given(optimizer, loss_sums if loss is None else loss)
    _check_given(optimizer, loss, learning_rate)
    with ExitStack() as stack, user_errors():
        columns = selection.columns(with_options(default_config(), _of_reading(options or {})))
        task = str((options or {}).get("data.task", ""))
        found = source_of(data, validation, dataclasses.replace(columns, source=source, target=target), task)
        folder = folder_of(workdir, stack)
        named = {
            "training.steps": steps,
            "training.epochs": epochs,
            "training.seed": seed,
            "optimizer.learning_rate": learning_rate,
        }
        asked = _asked({name: value for name, value in named.items() if value is not None}, options or {})
        measured = found.has_validation or bool(asked.get("data.validation_fraction"))
        config = configuration(lm._session, method, _defaults(found, measured, temporary=workdir is None) | asked)
        config = conversations.with_template(config)
        _check(config, measured)
        session = dataclasses.replace(lm._session.of(config), held=found.held)
        outcome = pipeline.tune(config, folder, ["prefix_jax.tune", method_name(method)], session, given)
        if not outcome.finished:
            raise KeyboardInterrupt(f"stopped at step {outcome.step}")
        pipeline.judged(outcome)
        return _opened(session, folder, temporary=workdir is None)


def _check_given(optimizer: Any, loss: Any, learning_rate: float | None) -> None:
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise UserError(f"optimizer is {type(optimizer).__name__}; it must be an optax optimizer, with init and update")
    if optimizer is not None and learning_rate is not None:
        raise UserError("optimizer and learning_rate are both given; give the optimizer its learning rate")
    if loss is not None and not callable(loss):
        raise UserError(f"loss is {type(loss).__name__}; it must be a function such as prefix_jax.loss")


def folder_of(workdir: str | os.PathLike | None, stack: ExitStack) -> Path:
    """Returns a run directory; a temporary one, which `stack` removes, where none is named."""
    if workdir is not None:
        folder = Path(workdir).expanduser()
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; name a directory as workdir")
        return folder
    if distributed.is_multiprocess():
        raise UserError("several processes tune together, and need one directory; name it as workdir")
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prefix_jax-")))


def _of_reading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those options that say how rows are read."""
    names = ("data.source_format", "data.target_format", "data.empty", "data.unicode")
    return {name: options[name] for name in names if name in options}


def _defaults(found: Source, measured: bool, temporary: bool) -> dict[str, Any]:
    """Returns the options that the kind of data and of directory decide, unless they are given."""
    unmeasured = {} if measured else {"training.evaluate_every": 0}
    return found.options | unmeasured | ({"training.tensorboard": False} if temporary else {})


def _asked(named: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options asked for.

    Raises:
      UserError: one is given twice, with different values.
    """
    for name, value in named.items():
        if options.get(name, value) != value:
            argument = name.partition(".")[2]
            raise UserError(f"{argument} is {value} and the option {name} is {options[name]}; give one of them")
    return {**options, **named}


def _check(config: Config, measured: bool) -> None:
    decoding.GenerationConfig.from_config(config.decoding)
    if config.training.evaluate_every and not measured:
        raise UserError(
            f"training.evaluate_every is {config.training.evaluate_every}, but there are no validation records; give "
            "them as validation, or set data.validation_fraction"
        )


def _opened(session: Session, folder: Path, temporary: bool) -> Tuned:
    kept, about = store.load(folder, session.model_config, session.pretrained.identity)
    history, record = History.of(read_curves(folder)), read_config(folder)
    step = int(about.get("step") or 0)
    return Tuned(session, kept, history=history, record=record, workdir=None if temporary else folder, step=step)
