"""The main job in one call: train, then keep what was tuned."""

import sys
from pathlib import Path

import jax

from prefix_jax.config import Config
from prefix_jax.training import loop
from prefix_jax.training.loop import Outcome, Trainer
from prefix_jax.training.session import Session, open_session
from prefix_jax.tuning import files


def tune(config: Config, workdir: Path, words: list[str]) -> Outcome:
    """Trains as `config` says and writes `tuned/`; goes on where an earlier call stopped.

    Raises:
      UserError: anything in the configuration, the data or the run directory that the user can mend.
    """
    session = open_session(config)
    trainer = loop.prepare(session, workdir, words)
    _announce(trainer)
    outcome = loop.train(trainer)
    if outcome.finished:
        keep(session, outcome, workdir)
    return outcome


def keep(session: Session, outcome: Outcome, workdir: Path) -> None:
    """Writes the materialised prefix to `workdir/tuned`."""
    _, prefix = jax.jit(lambda t, b: outcome.method.materialise(t, b, None))(outcome.trainable, session.base)
    extra = {"method": session.config.method, "step": outcome.step, "config": session.config.to_dict()}
    files.save(workdir / "tuned", prefix, session.pretrained.identity, session.spec, extra)


def _announce(trainer: Trainer) -> None:
    counts, packed = trainer.counts, trainer.batches.statistics()
    print(
        f"{trainer.session.config.model.source}: {counts['base']:,} parameters frozen, {counts['trained']:,} trained, "
        f"{counts['stored']:,} kept ({100 * counts['stored'] / counts['base']:.2f} %)\n"
        f"{trainer.total_steps} steps of {packed['records_per_step']:.1f} records in "
        f"{trainer.batches.shape.rows} rows, {100 * packed['fill']:.0f} % full",
        file=sys.stderr,
    )
