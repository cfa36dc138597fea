"""Setup of a run, or of several runs that share a program, checked before the first step."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from prefix_jax import tuning
from prefix_jax.cache import cache_path
from prefix_jax.config import check_ranges
from prefix_jax.data import subsets
from prefix_jax.data.batching import Batch, PackedBatches, split
from prefix_jax.data.packing import Shape
from prefix_jax.errors import UserError
from prefix_jax.options import Config
from prefix_jax.parallel import distributed
from prefix_jax.training import conversations, run_directory, sameness
from prefix_jax.training.conversations import is_chat
from prefix_jax.training.given import Given
from prefix_jax.training.optimizer import Hyperparameters, hyperparameters_from, make_optimizer
from prefix_jax.training.plain_text import is_plain, token_ids
from prefix_jax.training.selection import hashes, text_pairs
from prefix_jax.training.session import Session
from prefix_jax.training.step import TrainState, initial_state
from prefix_jax.training.token_sets import audited, fitting
from prefix_jax.tuning import Method, slots
from prefix_jax.tuning.method import parameter_counts


@dataclass(frozen=True)
class Member:
    """One run: its configuration, directory, method and hyperparameters."""

    config: Config
    workdir: Path
    method: Method
    hyper: Hyperparameters
    counts: dict[str, int]

    def initial(self, base: Any, shard: Callable[[PyTree], PyTree] | None, given: Given) -> TrainState:
        options = self.config.training
        return initial_state(self.method, base, self.hyper, options.seed, options.ema, shard, given.optimizer)


@dataclass(frozen=True)
class Trainer:
    """A run, or members of a sweep that share a program: all arrays but the step then have a leading member axis.

    All share `session`, whose configuration is the first member's. Checkpoints are in `folder`.
    """

    session: Session
    folder: Path
    members: tuple[Member, ...]
    batches: PackedBatches
    validation: PackedBatches | None
    total_steps: int
    # Validation batches for the bare model, if the method reserves input positions; otherwise None.
    bare_validation: PackedBatches | None = None
    given: Given = dataclasses.field(default_factory=Given)

    @property
    def options(self) -> Config:
        return self.members[0].config.training

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """Each member's prefix length; None where one run has the program to itself."""
        return tuple(slots(m.config) for m in self.members) if len(self.members) > 1 else None

    @property
    def method(self) -> Method:
        """The method of the member with the longest prefix."""
        return max(self.members, key=lambda member: slots(member.config)).method

    def shardings(self, state: TrainState) -> TrainState | None:
        """Returns the shardings of a state; None on a single device."""
        sharder = self.session.sharder
        return None if sharder is None else sharder.trained(state, members=self.lengths is not None)

    def batch_at(self, step: int) -> Batch:
        """Returns a training step's batch on the devices, split into micro-batches."""
        parts = self.options.accumulation
        sharder = self.session.sharder
        if sharder is None:
            return split(self.batches.batch_at(step), parts)
        batch = self.batches.batch_at(step, self._own_rows)
        return sharder.batch(split(batch, parts), leading=int(parts > 1))

    @functools.cached_property
    def _own_rows(self) -> np.ndarray | None:
        """Returns which batch rows this process reads; None: all."""
        sharder = self.session.sharder
        if sharder is None or not distributed.is_multiprocess():
            return None
        return sharder.own_rows(self.batches.shape.rows, self.options.accumulation)

    @functools.cached_property
    def hyper(self) -> Hyperparameters:
        # Numpy arrays, which every process may pass to a program on all devices.
        return jax.tree.map(np.asarray, self._stacked([member.hyper for member in self.members]))

    def initial(self) -> TrainState:
        """Returns the initial state: each member's own, zero-padded to the longest prefix."""
        base, sharder = self.session.base, self.session.sharder
        shard = None if sharder is None else sharder.trained
        states = [member.initial(base, shard, self.given) for member in self.members]
        if self.lengths is None:
            return states[0]
        shardings = None if sharder is None else self.shardings(jax.eval_shape(self._joined, states))
        return jax.jit(self._joined, out_shardings=shardings)(states)

    def _joined(self, states: Sequence[TrainState]) -> TrainState:
        slots = max(self.lengths or (0,))
        widened = [self._widened(member, state, slots) for member, state in zip(self.members, states, strict=True)]
        return self._stacked(widened).replace(step=jnp.int32(0))

    def _widened(self, member: Member, state: TrainState, slots: int) -> TrainState:
        trainable = member.method.resize(state.trainable, slots)
        average = None if state.average is None else jax.tree.map(jnp.copy, trainable)
        optimizer = make_optimizer(member.hyper, member.method.mask(trainable)).init(trainable)
        return TrainState(state.step, trainable, optimizer, average, state.key)

    def _stacked(self, trees: Sequence[PyTree]) -> PyTree:
        return trees[0] if self.lengths is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def prepare(session: Session, workdir: Path, argv: Sequence[str], given: Given | None = None) -> Trainer:
    """Reads the data, checks the configuration against the run directory, and writes `config.json`.

    `given` are an optimizer and a loss in place of those of the configuration.

    Raises:
      UserError: the data, an option or the run directory is invalid.
    """
    return prepare_together(session, [(session.config, workdir)], workdir, argv, given)


def prepare_together(
    session: Session, runs: Sequence[tuple[Config, Path]], folder: Path, argv: Sequence[str], given: Given | None = None
) -> Trainer:
    """Prepares runs, given as (configuration, run directory), that can share a program.

    Raises:
      UserError: see `prepare`.
    """
    runs = [(conversations.with_template(config), workdir) for config, workdir in runs]
    for config, _ in runs:
        check_options(config)
    given = given or Given()
    ground = {**sameness.ground(session), **given.record()}
    known = [run_directory.earlier(workdir, config, ground) for config, workdir in runs]
    for (_, workdir), before in zip(runs, known, strict=True) if distributed.is_primary() else ():
        sameness.say_other_tokenizer(workdir, before, ground)
    runs = [(sameness.spelled(config, before), w) for (config, w), before in zip(runs, known, strict=True)]
    # What the longest prefix leaves of the window, every record must fit into.
    longest = session.of(max((config for config, _ in runs), key=slots))
    shape = _known_shape(known)
    audit: dict[str, Any] = {}
    batches = _batches(longest, "train", audit, shuffle=True, shape=shape, given=given)
    options = longest.config.training
    total = options.steps or max(1, round(options.epochs * batches.steps_per_epoch))
    members = _members(session, runs, total, given)
    evaluated = options.evaluate_every
    validation = _batches(longest, "validation", audit, shuffle=False, given=given) if evaluated else None
    inputs = _inputs(longest, *(["train"] if validation is None else ["train", "validation"]))
    for (_, workdir), before in zip(runs, known, strict=True) if distributed.is_primary() else ():
        sameness.say_other_inputs(workdir, before, inputs)
    for member in members:
        capacities = dataclasses.astuple(batches.shape)
        run_directory.claim(member.workdir, member.config, member.counts, argv, capacities, ground, audit, inputs)
    bare = None
    if validation is not None and longest.method.reserved:
        bare = _batches(longest, "validation", {}, shuffle=False, bare=True, given=given)
    return Trainer(session.of(runs[0][0]), folder, members, batches, validation, total, bare, given)


def _inputs(session: Session, *splits: str) -> dict[str, dict[str, str]]:
    """Returns the hashes of the files that splits are read from, in the process that writes them down."""
    if not distributed.is_primary():
        return {}
    found = {split: hashes(session.config, split, session.held) for split in splits}
    return {split: files for split, files in found.items() if files}


def _known_shape(earlier: Sequence[dict[str, Any]]) -> Shape | None:
    shapes = [Shape(*found["batch_shape"]) for found in earlier if "batch_shape" in found]
    return shapes[0] if shapes else None


def _members(
    session: Session, runs: Sequence[tuple[Config, Path]], total_steps: int, given: Given
) -> tuple[Member, ...]:
    """Returns the members; those with equal methods share a method object, so that programs are compiled once."""
    known: dict[str, tuple[Method, dict[str, int]]] = {}
    members = []
    for config, workdir in runs:
        sections = (config[name].to_json() for name in tuning.names(config))
        section = f"{config.method} {' '.join(sections)}"
        if section not in known:
            method = given.started(session.of(config).method, config)
            known[section] = method, parameter_counts(method, session.base)._asdict()
        method, counts = known[section]
        members.append(Member(config, workdir, method, hyperparameters_from(config.optimizer, total_steps), counts))
    return tuple(members)


def check_options(config: Config) -> None:
    """Raises UserError if an option is out of range, or options of the section `training` conflict."""
    check_ranges(config)
    options = config.training
    if options.batch % options.accumulation:
        raise UserError(
            f"training.batch={options.batch} must be divisible by training.accumulation={options.accumulation}"
        )
    if options.loss not in ("tokens", "examples"):
        raise UserError(f'training.loss is "{options.loss}"; it must be tokens or examples')
    if options.patience and not options.evaluate_every:
        raise UserError(
            f"training.patience is {options.patience}, but training.evaluate_every is 0, so that nothing is measured; "
            "set it, or training.patience to 0"
        )
    if not options.steps and not options.epochs:
        raise UserError("training.steps and training.epochs are both 0; one of them must say how long to train")


def _batches(
    session: Session,
    split_name: str,
    audit: dict[str, Any],
    shuffle: bool,
    shape: Shape | None = None,
    bare: bool = False,
    given: Given = Given(),  # noqa: B008 (immutable)
) -> PackedBatches:
    """Returns a split's batches, without reserved positions if `bare`; stores findings about texts in `audit`."""
    config = session.config
    most = 0 if shuffle else config.training.evaluate_records
    shards = session.sharder.row_shards if session.sharder else 1
    if split_name in given.sets:
        data = given.sets[split_name]
        data = data.at(np.asarray(subsets.evenly_spaced(range(len(data)), most))) if most else data
    elif is_plain(config):
        data = token_ids(session, text_pairs(config, split_name, session.held))
        data = data.at(np.asarray(subsets.evenly_spaced(range(len(data)), most))) if most else data
    elif is_chat(config):
        records = text_pairs(config, split_name, session.held)
        records = subsets.evenly_spaced(records, most) if most else records
        data, said = conversations.audited(session, records, split_name)
        audit |= {} if bare else {split_name: said}
    else:
        records = text_pairs(config, split_name, session.held)
        records, data = fitting(session, subsets.evenly_spaced(records, most) if most else records, split_name)
        if records and not bare:
            audit[split_name] = audited(session, records, data, split_name)
    return PackedBatches(
        data.reserving(0 if bare else session.method.reserved),
        session.layout,
        batch=config.training.batch,
        seed=config.data.seed,
        row_length=config.data.row_length,
        rows_multiple=(config.training.accumulation if shuffle else 1) * shards,
        shuffle=shuffle,
        shape=shape,
        cache=cache_path("plans"),
    )
