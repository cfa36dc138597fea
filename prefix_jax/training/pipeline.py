"""Training and export in one call."""

import sys
from pathlib import Path

import jax

from prefix_jax import disk, verdict
from prefix_jax.errors import UserError
from prefix_jax.options import Config
from prefix_jax.parallel import distributed
from prefix_jax.training.given import Given
from prefix_jax.training.loop import Outcome, train
from prefix_jax.training.selection import check_data
from prefix_jax.training.session import Session, open_session
from prefix_jax.training.trainer import Trainer, prepare
from prefix_jax.tuning import store
from prefix_jax.verdict import Finding
from prefix_jax.workdir import TUNED, read_metrics


def tune(
    config: Config, workdir: Path, argv: list[str], opened: Session | None = None, given: Given | None = None
) -> Outcome:
    """Trains according to `config` and writes `tuned/`; resumes a stopped run.

    Args:
      opened: a session that has loaded the model of `config`, perhaps with records in memory; None: loads it.
      given: an optimizer and a loss in place of those of the configuration.

    Raises:
      UserError: an error in the configuration, the data or the run directory that the user can fix.
    """
    if config.mesh.member != 1:
        raise UserError(
            f"mesh.member is {config.mesh.member}, and this is one run; it divides the members of a sweep (see "
            "prefix_jax.sweep)"
        )
    held = None if opened is None else opened.held
    check_data(config, "train", *(["validation"] if config.training.evaluate_every else []), held=held)
    (outcome,) = run(prepare(open_session(config) if opened is None else opened.of(config), workdir, argv, given))
    if outcome.finished and outcome.diverged:
        raise UserError(
            f"what was trained is not finite at step {outcome.step}; lower --config.optimizer.learning_rate and start "
            "in a new --workdir"
        )
    return outcome


def run(trainer: Trainer) -> list[Outcome]:
    """Trains one run, or members of a sweep together, and writes `tuned/` for each that finished.

    Raises:
      UserError: a single run diverges, the disk is full, or another process is using the directory.
    """
    with distributed.holding(trainer.folder):
        if distributed.is_primary():
            for member in trainer.members:
                disk.drop_leftovers(member.workdir, member.workdir / TUNED)
        _announce(trainer)
        outcomes = train(trainer)
        for outcome in outcomes:
            if outcome.finished and not outcome.diverged:
                save_tuned(trainer.session, outcome)
    distributed.barrier("kept")  # process 0 has written what the others may read next
    return outcomes


def judged(outcome: Outcome) -> list[Finding]:
    """Returns the findings from a finished run's losses, and prints them."""
    member = outcome.member
    if not outcome.finished or outcome.diverged:
        return []
    best_kept = bool(member.config.training.patience)
    findings = distributed.by_primary(lambda: list(verdict.of_metrics(read_metrics(member.workdir), best_kept)))
    if findings and distributed.is_primary():
        print(f"warning: {verdict.sentence(findings)}", file=sys.stderr)
    return findings


def save_tuned(session: Session, outcome: Outcome) -> None:
    """Writes the tuned state to `tuned/` in the member's directory."""
    member = outcome.member
    everywhere = None if session.sharder is None else session.sharder.replicated
    kept_of = jax.jit(lambda t, b: member.method.export(t, b, None), out_shardings=everywhere)
    kept = jax.device_get(kept_of(outcome.trainable, session.base))
    if not distributed.is_primary():
        return
    extra = {"method": member.config.method, "step": outcome.step, "config": member.config.to_dict()}
    store.save(member.workdir / TUNED, kept, session.pretrained.identity, session.model_config, extra)


def _announce(trainer: Trainer) -> None:
    if not distributed.is_primary():
        return
    counts, packed = [member.counts for member in trainer.members], trainer.batches.statistics()
    trained, stored, base = (_range([c[name] for c in counts]) for name in ("trained", "stored", "base"))
    share = 100 * max(c["stored"] / c["base"] for c in counts)
    together = "" if trainer.lengths is None else f"{len(counts)} members together, each "
    print(
        f"{trainer.session.config.model.source}: {base} parameters frozen, {trained} trained, {stored} kept "
        f"({share:.2f} %)\n{together}{trainer.total_steps} steps of {packed['records_per_step']:.1f} records in "
        f"{trainer.batches.shape.rows} rows, {100 * packed['fill']:.0f} % full",
        file=sys.stderr,
    )


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
