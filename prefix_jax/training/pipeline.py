"""The main job in one call: train, then keep what was tuned."""

import sys
from pathlib import Path

import jax

from prefix_jax import disk, verdict
from prefix_jax.config import Config
from prefix_jax.errors import UserError
from prefix_jax.parallel import distributed
from prefix_jax.training.loop import Outcome, train
from prefix_jax.training.session import Session, check_data, open_session
from prefix_jax.training.trainer import Trainer, prepare
from prefix_jax.training.writers import read_metrics
from prefix_jax.tuning import store
from prefix_jax.verdict import Finding


def tune(config: Config, workdir: Path, argv: list[str]) -> Outcome:
    """Trains as `config` says and writes `tuned/`; resumes where an earlier call stopped.

    Raises:
      UserError: anything in the configuration, the data or the run directory that the user can fix.
    """
    if config.mesh.member != 1:
        raise UserError(
            f"mesh.member is {config.mesh.member}, and this is one run; it divides the members of a sweep (see "
            "prefix_jax.sweep)"
        )
    check_data(config, "train", *(["validation"] if config.training.evaluate_every else []))
    (outcome,) = run(prepare(open_session(config), workdir, argv))
    if outcome.finished and outcome.diverged:
        raise UserError(
            f"what was trained is not finite at step {outcome.step}; lower --config.optimizer.learning_rate and start "
            "in a new --workdir"
        )
    return outcome


def run(trainer: Trainer) -> list[Outcome]:
    """Trains one run, or the members of a sweep together, and writes the `tuned/` of each that came to its end.

    Raises:
      UserError: a run alone diverges, the disk is full, or another process trains in the same directory.
    """
    with distributed.holding(trainer.folder):
        if distributed.is_primary():
            for member in trainer.members:
                disk.drop_leftovers(member.workdir, member.workdir / "tuned")
        _announce(trainer)
        outcomes = train(trainer)
        for outcome in outcomes:
            if outcome.finished and not outcome.diverged:
                save_tuned(trainer.session, outcome)
    distributed.barrier("kept")  # process 0 has written what the others may read next
    return outcomes


def judged(outcome: Outcome) -> list[Finding]:
    """Returns what the losses of a finished run say against it, and says so."""
    member = outcome.member
    if not outcome.finished or outcome.diverged:
        return []
    best_kept = bool(member.config.training.patience)
    findings = distributed.by_primary(lambda: list(verdict.of_metrics(read_metrics(member.workdir), best_kept)))
    if findings and distributed.is_primary():
        print(f"warning: {verdict.sentence(findings)}", file=sys.stderr)
    return findings


def save_tuned(session: Session, outcome: Outcome) -> None:
    """Writes what the method keeps to `tuned/` in the member's directory."""
    member = outcome.member
    everywhere = None if session.sharder is None else session.sharder.replicated
    kept_of = jax.jit(lambda t, b: member.method.export(t, b, None), out_shardings=everywhere)
    kept = jax.device_get(kept_of(outcome.trainable, session.base))
    if not distributed.is_primary():
        return
    extra = {"method": member.config.method, "step": outcome.step, "config": member.config.to_dict()}
    store.save(member.workdir / "tuned", kept, session.pretrained.identity, session.model_config, extra)


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
