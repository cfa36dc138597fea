"""The training loop: consumes batches, writes metrics and checkpoints; a killed run resumes bit-exactly."""

import contextlib
import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from prefix_jax.data.batching import PackedBatches
from prefix_jax.errors import UserError
from prefix_jax.parallel import distributed
from prefix_jax.training import diagnosis, sameness
from prefix_jax.training.checkpoint import Checkpoints
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.training.step import TrainState, exported, make_bare_evaluation, make_evaluation, make_step
from prefix_jax.training.trainer import Member, Trainer
from prefix_jax.training.writers import MetricWriter
from prefix_jax.workdir import CHECKPOINTS


@dataclass
class Patience:
    """Early-stopping state: the best validation loss and its step, the latest evaluation, and evaluations since."""

    best: float = float("inf")
    best_step: int = 0
    last_step: int = 0
    since: int = 0

    def see(self, loss: float, step: int) -> bool:
        """Records an evaluation; returns whether it is the best so far."""
        self.last_step = step
        if loss < self.best:
            self.best, self.best_step, self.since = loss, step, 0
        else:
            self.since += 1
        return self.since == 0

    def exhausted(self, limit: int) -> bool:
        return limit > 0 and self.since >= limit

    def as_json(self) -> dict[str, Any]:
        best = None if self.best == float("inf") else self.best
        return {"best": best, "step": self.best_step, "last_step": self.last_step, "since": self.since}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Patience":
        best = float("inf") if saved["best"] is None else saved["best"]
        return cls(best, saved["step"], saved["last_step"], saved["since"])


@dataclass(frozen=True)
class Outcome:
    """Result of a run: `finished` is False if a signal stopped it after a checkpoint; a run that diverged to a
    non-finite loss has no tree to export.
    """

    member: Member
    step: int
    finished: bool
    trainable: PyTree
    seconds: float

    def __repr__(self) -> str:
        state = "diverged" if self.diverged else "finished" if self.finished else "stopped"
        return f"Outcome({state} at step {self.step}, {self.seconds:.0f} s, {str(self.member.workdir)!r})"

    @property
    def diverged(self) -> bool:
        return self.trainable is None


@dataclass
class _Point:
    """Progress of a run: everything that a checkpoint stores."""

    state: TrainState
    best: PyTree  # the trainable tree with the best validation loss
    patience: list[Patience]
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, trainer: Trainer, checkpoints: Checkpoints) -> "_Point":
        """Restores the newest checkpoint, or returns the initial state."""
        state = trainer.initial()
        best = _copy(exported(state))  # the step reuses the state's buffers
        restored = checkpoints.restore(state, best)
        if restored is None:
            return cls(state, best, [Patience() for _ in trainer.members])
        state, best, progress = restored
        # Not the state's own step counter, which would make the host wait for the device.
        step, seconds = progress["next_step"], progress["seconds"]
        return cls(state, best, [Patience.from_json(p) for p in progress["patience"]], step, seconds)

    def save(self, checkpoints: Checkpoints, seconds: float) -> None:
        patience = [p.as_json() for p in self.patience]
        checkpoints.save(self.state, self.best, {"patience": patience, "seconds": seconds, "next_step": self.step})


class Stop:
    """True once SIGTERM, SIGINT or SIGHUP was received; the handlers are installed while the context is entered.

    An ignored SIGHUP, as under nohup, remains ignored.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Stop":
        def ask(*_: Any) -> None:
            self.asked = True

        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            # With several processes, SIGTERM to one stops all at the same step: see `distributed.asked_to_stop`.
            numbers = [signal.SIGINT] if distributed.is_multiprocess() else [signal.SIGTERM, signal.SIGINT]
            hangup = getattr(signal, "SIGHUP", None)
            if (
                hangup is not None
                and not distributed.is_multiprocess()
                and signal.getsignal(hangup) is not signal.SIG_IGN
            ):
                numbers.append(hangup)
            self._before = {s: signal.signal(s, ask) for s in numbers}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(trainer: Trainer) -> list[Outcome]:
    """Trains until the last step, early stopping, or a signal; resumes if the directory holds checkpoints.

    Returns for each member the trainable tree to export: the best by validation loss with `training.patience`,
    otherwise the last.

    Raises:
      UserError: a run trained alone diverges, or the disk is full.
    """
    options = trainer.options
    fixed = [sameness.fixed(member.config) for member in trainer.members]
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(Stop())  # first, so that the handlers stand until the last save is finished
        checkpoints = stack.enter_context(Checkpoints(trainer.folder / CHECKPOINTS, fixed))
        writers = [
            stack.enter_context(MetricWriter(member.workdir, options.tensorboard, options.wandb))
            for member in trainer.members
            if distributed.is_primary()
        ]
        point = _Point.of(trainer, checkpoints)
        if point.step > trainer.total_steps:
            raise UserError(
                f"{trainer.folder} is at step {point.step} already, and {trainer.total_steps} steps are asked for; "
                "give it more, or another --workdir"
            )
        for writer in writers:
            writer.resume(point.step)
        bare = None
        if trainer.validation is not None and point.step < trainer.total_steps:
            bare = bare_validation_loss(trainer, writers)
        run = _Run(trainer, checkpoints, writers, stop, point, bare)
        run.to_the_end()
        checkpoints.close()
    return run.outcomes()


class _Run:
    """Mutable state of `train`."""

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints,
        writers: Sequence[MetricWriter],
        stop: Stop,
        point: _Point,
        bare: float | None,
    ) -> None:
        self._bare = {} if bare is None else {"bare_validation_loss": bare}
        self.t, self.checkpoints, self.writers, self.stop, self.at = trainer, checkpoints, writers, stop, point
        self._began = time.monotonic() - point.seconds
        options, model = trainer.options, trainer.session.model
        per_record = options.loss == "examples"
        self._step = make_step(
            model, trainer.method, per_record, options.ema, trainer.lengths, trainer.shardings(point.state),
            trainer.given.optimizer, trainer.given.loss,
        )  # fmt: skip
        sharded = trainer.session.sharder is not None
        self._evaluate = make_evaluation(model, trainer.method, trainer.lengths, sharded, trainer.given.loss)
        self._window: list[dict[str, Array]] = []
        self._logged: float | None = None
        self.diverged: set[int] = set()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        return self.at.step >= self.t.total_steps or not self._running()

    def _running(self) -> list[int]:
        """Returns the members that were ended neither by early stopping nor by a non-finite loss."""
        limit = self.t.options.patience
        return [m for m, p in enumerate(self.at.patience) if not p.exhausted(limit) and m not in self.diverged]

    def to_the_end(self) -> None:
        options, total = self.t.options, self.t.total_steps
        label = "train" if self.t.lengths is None else f"train {len(self.t.members)} members"
        stream = None if distributed.is_primary() else io.StringIO()
        if self.over and distributed.is_primary():
            print(f"at step {self.at.step} already: nothing to train", file=sys.stderr)
        with Progress(total, start=self.at.step, label=label, stream=stream) as bar, distributed.lost_processes():
            while not self.over and not self.stop.asked and not distributed.asked_to_stop(self.at.step):
                batch = self.t.batch_at(self.at.step)
                self.at.state, metrics = self._step(self.t.session.base, self.t.hyper, self.at.state, batch)
                self.at.step += 1
                self._window.append(metrics)
                self.checkpoints.prepare()
                last = self.at.step == total
                if self.at.step % options.log_every == 0 or last:
                    bar.update(self.at.step, self._log())
                if options.evaluate_every and (self.at.step % options.evaluate_every == 0 or last):
                    bar.update(self.at.step, self._validate())
                if self.at.step % options.checkpoint_every == 0:
                    self._save()
        self._save()

    def _save(self) -> None:
        for writer in self.writers:
            writer.sync()
        self.at.save(self.checkpoints, self.seconds)

    def _log(self) -> dict[str, float]:
        """Writes means over the steps since the last line; this is where the host waits for the newest step.

        Returns the values for the progress bar: the mean finite loss over members, and the tokens of all.
        """
        window = jax.device_get(self._window)
        now, since = time.monotonic(), self._logged
        lines = [self._line(window, m, since and now - since) for m in range(len(self.t.members))]
        self._logged, self._window = now, []
        for m in self._running():
            self._write(m, lines[m])
        losses = np.array([line["loss"] for line in lines])
        diverged = set(np.flatnonzero(~np.isfinite(losses)).tolist()) - self.diverged
        self.diverged |= diverged
        if diverged:
            self._explain(losses, window)
        shown = {"loss": float(np.mean(losses[np.isfinite(losses)] if len(self.diverged) < len(losses) else losses))}
        if since is not None:  # the first line would include compilation
            shown["tokens_per_second"] = sum(line["tokens_per_second"] for line in lines)
        return shown

    def _explain(self, losses: np.ndarray, window: list[dict[str, Any]]) -> None:
        """Raises UserError with the cause if a single run, or every member, has a non-finite loss."""
        alone = self.t.lengths is None
        bad = [not np.isfinite([_each(m["loss"]), _each(m["gradient_norm"])]).all() for m in window]
        first = bad.index(True)
        step = self.at.step - len(window) + first
        found = diagnosis.cause(self.t, step, self._step) if alone else diagnosis.of_weights(self.t)
        if found:
            loss = losses[~np.isfinite(losses)][0]
            raise UserError(f"the loss is {loss} at step {step + 1 if alone else self.at.step}; {found}")

    def _write(self, m: int, values: dict[str, float]) -> None:
        """Writes a line of a member's metrics, in the primary process."""
        if self.writers:
            self.writers[m].write(self.at.step, values)

    def _line(self, window: list[dict[str, Any]], m: int, elapsed: float | None) -> dict[str, float]:
        """Returns one member's line of metrics."""
        values = {name: np.array([_each(step[name])[m] for step in window]) for name in window[0]}
        tokens = float(values["target_tokens"].sum())
        line = {
            "loss": float((values["loss"] * values["target_tokens"]).sum() / max(tokens, 1)),
            **({"learning_rate": float(values["learning_rate"][-1])} if "learning_rate" in values else {}),
            "gradient_norm": float(values["gradient_norm"].mean()),
            "target_tokens": tokens,
            "seconds": self.seconds,
        }
        return line if elapsed is None else {**line, "tokens_per_second": tokens / elapsed}

    def _validate(self) -> dict[str, float]:
        trainable = exported(self.at.state)
        losses = _each(validation_loss(self._evaluate, self.t.session, trainable, self.t.validation))
        better = np.zeros(len(losses), bool)
        if not np.isfinite(losses).all() and (found := diagnosis.of_weights(self.t)):
            raise UserError(f"the validation loss is {losses[~np.isfinite(losses)][0]} at step {self.at.step}; {found}")
        for m in self._running():
            self._write(m, {"validation_loss": float(losses[m]), **self._bare, "seconds": self.seconds})
            better[m] = self.at.patience[m].see(float(losses[m]), self.at.step)
        if better.any():
            self.at.best = jax.tree.map(lambda new, old: _chosen(better, new, old), trainable, self.at.best)
        if self._logged is not None:
            self._logged = time.monotonic()
        return {"validation_loss": float(np.min(losses[better] if better.any() else losses))}

    def outcomes(self) -> list[Outcome]:
        """Returns each member's outcome, with a tree of its own prefix length."""
        chosen = _copy(self.at.best if self.t.options.patience else exported(self.at.state))
        found = []
        for m, (member, patience) in enumerate(zip(self.t.members, self.at.patience, strict=True)):
            early = patience.exhausted(self.t.options.patience)
            tree: PyTree = chosen
            if self.t.lengths is not None:
                tree = member.method.resize(self._taken(chosen, m), self.t.lengths[m])
            if m in self.diverged or not _finite(tree):
                tree = None
            found.append(Outcome(member, patience.last_step if early else self.at.step, self.over, tree, self.seconds))
        return found

    def _taken(self, trees: PyTree, m: int) -> PyTree:
        """Returns one member's tree, gathered in every process."""
        sharder = self.t.session.sharder
        whole = None if sharder is None else sharder.replicated
        return jax.jit(lambda trees: jax.tree.map(lambda leaf: leaf[m], trees), out_shardings=whole)(trees)


def _each(values: Any) -> np.ndarray:
    """Returns an array of per-member values, also for a single run."""
    return np.atleast_1d(np.asarray(values))


def _chosen(better: np.ndarray, new: Array, old: Array) -> Array:
    """Selects the new leaf for the members that improved."""
    mask = better.reshape(-1, *(1,) * (np.ndim(new) - 1)) if len(better) > 1 else better[0]
    return jnp.where(mask, new, old)


@jax.jit
def _finite(tree: PyTree) -> Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def bare_validation_loss(trainer: Trainer, writers: Sequence[MetricWriter]) -> float:
    """Returns the bare model's validation loss: from an earlier part of the run, or measured."""
    known = distributed.by_primary(lambda: writers[0].last("bare_validation_loss"))
    if known is not None:
        return known
    evaluate = make_bare_evaluation(trainer.session.model, trainer.given.loss)
    batches = trainer.bare_validation or trainer.validation
    return float(validation_loss(lambda base, _, batch: evaluate(base, batch), trainer.session, None, batches))


def validation_loss(evaluate: Callable, session: Session, trainable: PyTree, batches: PackedBatches | None) -> Any:
    """Returns the mean loss per target token over all batches, for each member if there are several."""
    assert batches is not None
    put = session.sharder.batch if session.sharder else lambda batch: batch
    sums = distributed.fetch([evaluate(session.base, trainable, put(batch)) for batch in batches.epoch()])
    losses, weights = np.moveaxis(np.asarray(sums), 1, 0)
    return losses.sum(0) / weights.sum(0)
