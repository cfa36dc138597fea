"""Runs a sweep group by group: trains, scores and records each, so that a killed sweep resumes."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

import prefix_jax.workdir as files
from prefix_jax import checksums, disk, inference
from prefix_jax.compile_cache import keep_programs
from prefix_jax.data import text_files
from prefix_jax.errors import UserError, one_line
from prefix_jax.evaluation import scorers
from prefix_jax.parallel import distributed
from prefix_jax.reporting.report import write_report
from prefix_jax.reporting.sweep_page import write_sweep
from prefix_jax.sweeping.jobs import Job, Jobs, Work, follow
from prefix_jax.sweeping.rows import Row
from prefix_jax.sweeping.state import SweepState
from prefix_jax.training import pipeline
from prefix_jax.training.session import Session, model_options, open_session
from prefix_jax.training.trainer import prepare_together


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep: at most `members` rows per program; the split to score ("" for none), how many of its records
    (0: all), and whether they are evenly spaced; only programs with a row whose name contains `only`; a plain text on
    which forgetting is measured ("": none).
    """

    members: int = 8
    split: str = "test"
    limit: int = 0
    spread: bool = False
    only: str = ""
    forgetting: str = ""


def sweep(rows: Sequence[Row], workdir: Path, options: SweepOptions, argv: Sequence[str]) -> SweepState:
    """Trains and scores all unfinished rows; a failed row does not affect the others.

    Raises:
      UserError: the directory holds other runs, or cannot be written.
    """
    _try_scorers(rows, options)
    with distributed.holding(workdir):
        if distributed.is_primary():
            disk.drop_leftovers(workdir, *(workdir / files.RUNS / row.name for row in rows))
        state = _state(rows, workdir, options, argv)
        runner = _Runner(state, options, list(argv))
        for group in state.chosen:
            if not runner.take(group):
                break
            _write(state)
        _write(state)
    return state


def sweep_in_jobs(
    rows: Sequence[Row], workdir: Path, options: SweepOptions, argv: Sequence[str], jobs: Jobs
) -> SweepState:
    """Runs a sweep with one job per unfinished group, and waits for the jobs.

    Jobs that an earlier call started and that are still running are awaited, not started again.

    Raises:
      UserError: see `sweep`; or the cluster rejects a job.
    """
    _try_scorers(rows, options)
    state = _state(rows, workdir, options, argv)
    running: dict[str, Job] = {}
    for group in state.chosen:
        folder = state.job_folder(group[0])
        job = jobs.started(folder)
        if job is None and state.undone(group):
            own = [state.rows[name] for name in group]
            job = jobs.start(folder, Work(_in_job, (own, workdir, options, list(argv), group[0])))
            print(f"job {job.number}: {', '.join(group)}", file=sys.stderr)
        if job is not None:
            running[group[0]] = job
    members = {group[0]: group for group in state.groups}

    def ended(name: str, job: Job) -> None:
        state.gather(members[name])
        for row in state.undone(members[name]):
            state.set(row, "failed", error=f"its job ended early: {job.complaint()}")
        _write(state)

    follow(running, ended, seconds=10.0 if jobs.cluster == "slurm" else 0.5)
    _write(state)
    return state


def _try_scorers(rows: Sequence[Row], options: SweepOptions) -> None:
    """Raises UserError before training if a scorer of the rows or the plain text is unavailable; a row without data
    fails alone.
    """
    _plain_text(options)
    if options.split:
        distributed.by_primary(lambda: [scorers.try_out(row.config) for row in rows])


def _in_job(rows: Sequence[Row], workdir: Path, options: SweepOptions, argv: list[str], job: str) -> None:
    """Runs in a job: processes one group and records it in a separate file."""
    keep_programs()
    distributed.join()
    state = _state(rows, workdir, options, argv, job)
    runner = _Runner(state, options, argv)
    for group in state.groups:
        runner.take(group)


def _plain_text(options: SweepOptions) -> str:
    """Returns the text on which forgetting is measured; "" if none.

    Raises:
      UserError: it cannot be read, or nothing is scored.
    """
    if not options.forgetting:
        return ""
    if not options.split:
        raise UserError("--forgetting is measured where a split is scored; leave out --split=")
    return text_files.read_text(Path(options.forgetting), "text")


def _state(rows: Sequence[Row], workdir: Path, options: SweepOptions, argv: Sequence[str], job: str = "") -> SweepState:
    scoring: dict[str, Any] = {"split": options.split, "limit": options.limit}
    scoring |= {"spread": True} if options.spread else {}
    scoring |= {"forgetting": checksums.of_bytes(text.encode())} if (text := _plain_text(options)) else {}
    about = {"command": shlex.join(argv)}
    state = SweepState(workdir, rows, options.members, scoring, about, options.only, job)
    distributed.barrier("sweep")
    return state


def _write(state: SweepState) -> None:
    if distributed.is_primary():
        write_sweep(state.workdir)


class _Runner:
    """Keeps the model loaded between groups that share it."""

    def __init__(self, state: SweepState, options: SweepOptions, argv: list[str]):
        self.state, self.options, self.argv = state, options, argv
        self._session: Session | None = None

    def take(self, group: Sequence[str]) -> bool:
        """Trains and scores the unfinished rows of a group; returns False if a signal requested a stop."""
        try:
            if any(self.state.status(name) == "waiting" for name in group) and not self._train(group):
                return False
            for name in group:
                if self.options.split and self.state.status(name) == "trained":
                    self._score(name)
            # Programs of other shapes follow; on CPUs, Linux kills a process that keeps the programs of about
            # 150 rows, for exceeding its limit of memory mappings.
            jax.clear_caches()
        except UserError as error:
            undone = [name for name in group if self.state.status(name) in ("waiting", "trained")]
            for name in undone:
                self.state.set(name, "failed", error=str(error))
            if distributed.is_multiprocess():
                raise  # the other processes may be in the middle of a step and cannot continue without this one
            print(f"{', '.join(undone)}: {one_line(error)}", file=sys.stderr)
        return True

    def _train(self, group: Sequence[str]) -> bool:
        rows = [self.state.rows[name] for name in group]
        _say(f"\n{', '.join(group)}")
        runs = [(row.config, self.state.directory(row.name)) for row in rows]
        session = self._opened(rows[0])
        outcomes = pipeline.run(prepare_together(session, runs, self.state.folder(group), self.argv))
        for name, outcome in zip(group, outcomes, strict=True):
            if self.state.status(name) != "waiting":
                continue  # already finished: a kill interrupted its group
            if outcome.diverged:
                self.state.set(name, "diverged", step=outcome.step)
            elif outcome.finished:
                findings = pipeline.judged(outcome)
                more = {"verdict": findings} if findings else {}
                self.state.set(name, "trained", step=outcome.step, seconds=round(outcome.seconds, 1), **more)
        return all(outcome.finished for outcome in outcomes)

    def _score(self, name: str) -> None:
        row, known = self.state.rows[name], self.state.found[name]
        about: dict[str, Any] = {f"decoding.{option}": value for option, value in row.config.decoding.items()}
        about |= {f"evaluation.{option}": value for option, value in row.config.evaluation.items()}
        about |= {"model.source": row.config.model.source, "data.language": row.config.data.language}
        directory = self.state.directory(name)
        _say(name)
        found = inference.evaluate(
            directory,
            self.options.split,
            limit=self.options.limit,
            overrides=about,
            spread=self.options.spread,
            opened=self._opened(row),
            plain_text=Path(self.options.forgetting) if self.options.forgetting else None,
        )
        if distributed.is_primary():
            write_report(directory)
        more = {key: known[key] for key in ("step", "seconds") if key in known}
        if found["verdict"]:
            more["verdict"] = found["verdict"]
        scored = {"asked": self.state.asked(row), "records": found["records"], "scores": found["tuned"]}
        self.state.set(name, "scored", **more, **scored)

    def _opened(self, row: Row) -> Session:
        if self._session is None or model_options(self._session.config) != model_options(row.config):
            self._session = None  # free the old weights before loading new ones
            self._session = open_session(row.config)
        return self._session.of(row.config)


def _say(text: str) -> None:
    if distributed.is_primary():
        print(text, file=sys.stderr)
