"""The training loop: batches in, metrics and checkpoints out; killed anywhere, it goes on to the same result."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from prefix_jax.config import Config
from prefix_jax.data.batching import Layout, PackedBatches, split
from prefix_jax.errors import UserError
from prefix_jax.training import run_directory
from prefix_jax.training.checkpoint import Checkpoints
from prefix_jax.training.optimizer import Hyper, hyper_from
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session, text_pairs, tokenised
from prefix_jax.training.step import State, exported, initial_state, make_evaluation, make_step
from prefix_jax.training.writers import MetricWriter
from prefix_jax.tuning import Method
from prefix_jax.tuning.method import count, stored_count


@dataclass
class Patience:
    """Early stopping: the best validation loss, its trainable tree's step, and how many evaluations came after it."""

    best: float = float("inf")
    best_step: int = 0
    since: int = 0

    def see(self, loss: float, step: int) -> None:
        if loss < self.best:
            self.best, self.best_step, self.since = loss, step, 0
        else:
            self.since += 1

    def exhausted(self, limit: int) -> bool:
        return limit > 0 and self.since >= limit

    def as_json(self) -> dict[str, Any]:
        return {"best": None if self.best == float("inf") else self.best, "step": self.best_step, "since": self.since}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Patience":
        best = float("inf") if saved["best"] is None else saved["best"]
        return cls(best, saved["step"], saved["since"])


@dataclass(frozen=True)
class Outcome:
    """What a run ended with: `finished` is False where a signal stopped it after a checkpoint."""

    step: int
    finished: bool
    trainable: PyTree
    method: Method
    seconds: float


class Stop:
    """True once SIGTERM or SIGINT has come; the handlers stand while it is entered."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Stop":
        def ask(*_: Any) -> None:
            self.asked = True

        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclass
class Trainer:
    """The parts of a run, made once by `prepare`."""

    session: Session
    workdir: Path
    method: Method
    hyper: Hyper
    batches: PackedBatches
    validation: PackedBatches | None
    total_steps: int
    counts: dict[str, int]

    @property
    def options(self) -> Config:
        return self.session.config.training


def prepare(session: Session, workdir: Path, words: list[str]) -> Trainer:
    """Reads the data, checks the configuration against the run directory, and writes `config.json`.

    Raises:
      UserError: the data, an option or the run directory does not fit.
    """
    config = session.config
    _check(config)
    method = session.method()
    batches = _batches(session, "train", shuffle=True)
    total = config.training.steps or max(1, round(config.training.epochs * batches.steps_per_epoch))
    hyper = hyper_from(config.optimizer, total)
    counts = parameter_counts(session, method)
    run_directory.claim(workdir, config, counts, words)
    validation = _batches(session, "validation", shuffle=False) if config.training.evaluate_every else None
    return Trainer(session, workdir, method, hyper, batches, validation, total, counts)


def _check(config: Config) -> None:
    options = config.training
    for name in ("batch", "accumulation", "log_every", "checkpoint_every"):
        if options[name] < 1:
            raise UserError(f"training.{name} is {options[name]}; it must be at least 1")
    if options.batch % options.accumulation:
        raise UserError(
            f"training.batch={options.batch} must be divisible by training.accumulation={options.accumulation}"
        )
    if options.loss not in ("tokens", "examples"):
        raise UserError(f'training.loss is "{options.loss}"; it must be tokens or examples')
    if not 0 <= options.ema < 1:
        raise UserError(f"training.ema is {options.ema}; it must be at least 0 and below 1")
    if options.patience and not options.evaluate_every:
        raise UserError(
            f"training.patience is {options.patience}, but training.evaluate_every is 0, so that nothing is measured; "
            "set it, or training.patience to 0"
        )
    if options.steps <= 0 and options.epochs <= 0:
        raise UserError("training.steps and training.epochs are both 0; one of them must say how long to train")


def _batches(session: Session, split_name: str, shuffle: bool) -> PackedBatches:
    config, spec = session.config, session.spec
    records = text_pairs(config, split_name)
    wanted = config.training.evaluate_records
    if not shuffle and wanted:
        records = records[:: max(1, len(records) // wanted)][:wanted]
    return PackedBatches(
        tokenised(session, records),
        Layout(spec.encoder_layers > 0, getattr(spec, "decoder_start_id", 0), spec.pad_id),
        batch=config.training.batch,
        seed=config.data.seed,
        row_length=config.data.row_length,
        rows_multiple=config.training.accumulation if shuffle else 1,
        shuffle=shuffle,
    )


def parameter_counts(session: Session, method: Method) -> dict[str, int]:
    """Returns the counts of trained and of stored numbers, and of the base's."""
    trainable = jax.eval_shape(method.init, jax.random.key(0), session.base)
    _, prefix = jax.eval_shape(lambda t, b: method.materialise(t, b, None), trainable, session.base)
    return {"trained": count(trainable), "stored": stored_count(prefix), "base": count(session.base)}


def train(trainer: Trainer) -> Outcome:
    """Runs to the last step, to early stopping, or to a signal; a directory with checkpoints is gone on with.

    Returns the trainable tree to export: the best by validation loss with `training.patience`, else the last.
    """
    options, workdir = trainer.options, trainer.workdir
    state = initial_state(trainer.method, trainer.session.base, trainer.hyper, options.seed, options.ema)
    checkpoints = Checkpoints(workdir / "checkpoints")
    patience, best, seconds = Patience(), _copy(exported(state)), 0.0  # the step reuses the state's buffers
    with MetricWriter(workdir, options.tensorboard, options.wandb) as writer, Stop() as stop:
        if checkpoints.latest() is not None:
            state, best, progress = checkpoints.restore(state, best)
            patience, seconds = Patience.from_json(progress["patience"]), progress["seconds"]
        writer.resume(int(state.step))
        run = _Run(trainer, checkpoints, writer, stop, state, best, patience, seconds)
        run.to_the_end()
        checkpoints.close()
    return run.outcome()


class _Run:
    """The moving parts of `train`."""

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints,
        writer: MetricWriter,
        stop: Stop,
        state: State,
        best: PyTree,
        patience: Patience,
        seconds: float,
    ) -> None:
        self.t, self.checkpoints, self.writer, self.stop = trainer, checkpoints, writer, stop
        self.state, self.best, self.patience = state, best, patience
        self.step = int(state.step)
        self._began = time.monotonic() - seconds
        options = trainer.options
        self._step = make_step(trainer.session.model, trainer.method, options.loss == "examples", options.ema)
        self._evaluate = make_evaluation(trainer.session.model, trainer.method)
        self._window: list[dict[str, jax.Array]] = []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        return self.step >= self.t.total_steps or self.patience.exhausted(self.t.options.patience)

    def to_the_end(self) -> None:
        options, total = self.t.options, self.t.total_steps
        with Progress(total, start=self.step, label="train") as bar:
            while not self.over and not self.stop.asked:
                batch = split(self.t.batches.batch_at(self.step), options.accumulation)
                self.state, metrics = self._step(self.t.session.base, self.t.hyper, self.state, batch)
                self.step += 1
                self._window.append(metrics)
                last = self.step == total
                if self.step % options.log_every == 0 or last:
                    bar.update(self.step, self._log())
                if options.evaluate_every and (self.step % options.evaluate_every == 0 or last):
                    bar.update(self.step, self._validate())
                if self.step % options.checkpoint_every == 0:
                    self._save()
        self._save()

    def _log(self) -> dict[str, float]:
        """Writes the means over the steps since the last line; the wait for the newest step is here."""
        values = jax.device_get(self._window)
        tokens = float(sum(v["target_tokens"] for v in values))
        now = time.monotonic()
        since = self._logged if hasattr(self, "_logged") else None
        line = {
            "loss": float(sum(v["loss"] * v["target_tokens"] for v in values) / max(tokens, 1)),
            "learning_rate": float(values[-1]["learning_rate"]),
            "gradient_norm": float(np.mean([v["gradient_norm"] for v in values])),
            "target_tokens": tokens,
            "seconds": self.seconds,
        }
        if since is not None:  # the first line would count compilation
            line["tokens_per_second"] = tokens / (now - since)
        self._logged, self._window = now, []
        self.writer.write(self.step, line)
        if not np.isfinite(line["loss"]):
            raise UserError(
                f"the loss is {line['loss']} at step {self.step}; lower --config.optimizer.learning_rate and start in "
                "a new --workdir"
            )
        return line

    def _validate(self) -> dict[str, float]:
        trainable = exported(self.state)
        loss = validation_loss(self._evaluate, self.t.session.base, trainable, self.t.validation)
        self.writer.write(self.step, {"validation_loss": loss, "seconds": self.seconds})
        self.patience.see(loss, self.step)
        if self.patience.best_step == self.step:
            self.best = _copy(trainable)
        if hasattr(self, "_logged"):
            self._logged = time.monotonic()
        return {"validation_loss": loss}

    def _save(self) -> None:
        progress = {"patience": self.patience.as_json(), "seconds": self.seconds, "next_step": self.step}
        self.checkpoints.save(self.state, self.best, progress)

    def outcome(self) -> Outcome:
        chosen = self.best if self.t.options.patience else exported(self.state)
        return Outcome(self.step, self.over, chosen, self.t.method, self.seconds)


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(np.array, tree)


def validation_loss(evaluate: Callable, base: Any, trainable: PyTree, batches: PackedBatches | None) -> float:
    """Returns the mean loss of a target token over all batches."""
    assert batches is not None
    sums = [evaluate(base, trainable, batch) for batch in batches.epoch()]
    losses, weights = np.asarray(jax.device_get(sums)).T
    return float(losses.sum() / weights.sum())
