"""From a document to a prefix: read it, ask about it, compress it, train what stands for it, measure what is left."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from prefix_jax.cache import cache_path
from prefix_jax.config import default_config
from prefix_jax.data import array_cache
from prefix_jax.data.tokens import SoftTargets, TokenisedSet
from prefix_jax.dependencies import TeacherTargets
from prefix_jax.distillation import closed_form, document, fidelity, framing, study
from prefix_jax.distillation.closed_form import Matching
from prefix_jax.distillation.fidelity import TEACHER, Fidelity
from prefix_jax.distillation.study import Asking
from prefix_jax.errors import UserError
from prefix_jax.models.model_config import model_config_json
from prefix_jax.models.prefix import Prefix
from prefix_jax.options import Config
from prefix_jax.training import conversations, pipeline, run_directory, sameness, token_sets
from prefix_jax.training.conversations import is_chat
from prefix_jax.training.given import Given
from prefix_jax.training.loss import divergence_sums
from prefix_jax.training.selection import text_pairs
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState, store
from prefix_jax.tuning.method import count
from prefix_jax.tuning.prefix import GIVEN
from prefix_jax.workdir import (
    STUDY,
    TUNED,
    is_run,
    read_distillation,
    write_config,
    write_distillation,
    write_study_splits,
)

# How a document becomes a prefix: its first tokens, chunks spread over it, Attention Matching, and training after that.
METHODS = ("closed_form", "train", "first", "chunks")
# Those that need questions beside the ones that measure.
_STUDIED = ("closed_form", "train")
# The bare model, in the table of what is measured.
BARE = "bare"
# Version of cached targets of a teacher: increment it whenever the same records give other arrays.
VERSION = 1
# Records of a cache entry of these.
_SHARD = 64


@dataclass(frozen=True)
class Options:
    """Options of `distill`.

    Attributes:
      length: slots of the prefix.
      method: one of METHODS.
      questions: that the model writes and answers: the closed form is solved for their queries too, and "train" trains
        on them. 0: for the queries of reading the document again alone.
      held_out: questions that measure fidelity.
      chat: whether questions are turns of a chat; None: where the tokenizer has a chat template.
      frozen: first slots that training leaves as they are.
      queries: of a KV head that the closed form is solved for, at most.
      reread: tokens of the parts in which the document is read again, after itself, for queries.
      top_k: tokens of the teacher's distribution that are kept for each target.
      asking: how questions are written.
      matching: how slots are chosen and solved for.
    """

    length: int = 128
    method: str = "closed_form"
    questions: int = 64
    held_out: int = 32
    chat: bool | None = None
    frozen: int = 1
    queries: int = 4096
    reread: int = 128
    top_k: int = 20
    asking: Asking = field(default_factory=Asking)
    matching: Matching = field(default_factory=Matching)

    def check(self) -> None:
        """Raises UserError if an option is out of its range."""
        if self.method not in METHODS:
            raise UserError(f'method is "{self.method}"; it must be one of {", ".join(METHODS)}')
        for name in ("length", "held_out", "queries", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.method == "train" and self.questions < 1:
            raise UserError(f"questions is {self.questions}, and training needs some; raise it")


@dataclass(frozen=True)
class Distilled:
    """A prefix in place of a document.

    Attributes:
      session: the model under the configuration of texts after the prefix.
      prefix: of `Options.length` slots.
      fidelity: of the teacher, the bare model, the prefix by the name of its method, and of other starts.
      tokens: of the document.
      errors: of the closed form, by head; None without it.
      finished: whether training reached its last step.
    """

    session: Session
    prefix: Prefix
    fidelity: Mapping[str, Fidelity]
    tokens: int
    errors: closed_form.Errors | None = None
    finished: bool = True

    @property
    def compression(self) -> float:
        """How many tokens of the document a slot stands for."""
        return self.tokens / self.prefix.decoder.key.shape[-2]  # type: ignore[union-attr]

    def rows(self) -> list[tuple[Any, ...]]:
        """Returns a row of a table for each prefix: name, divergence, agreement in percent, loss, recovery."""
        bare, teacher = self.fidelity[BARE], self.fidelity[TEACHER]
        return [
            (name, own.kl, 100 * own.agreement, own.loss, own.recovery(bare, teacher))
            for name, own in self.fidelity.items()
        ]


def configured(config: Config, options: Options, overrides: Mapping[str, Any]) -> Config:
    """Returns the configuration of a distilled prefix: the model of `config`, and the options given.

    Those of the document itself follow in `distill`.

    Raises:
      UserError: an option is not that of a prefix that can be distilled.
    """
    made = default_config()
    for section in ("model", "mesh"):
        made[section].update(config[section].to_dict())
    made.training.evaluate_every = 0
    made.optimizer.learning_rate = 1e-2
    # Tokens of a generated text may be more when it is read than when it was written.
    made.data.update(too_long="drop", max_target_length=4 * options.asking.answer_tokens)
    made.update_from_flattened_dict(dict(overrides))
    made.prefix.update(
        length=options.length,
        sites="all",
        layers="all",
        reparameterisation="none",
        initialisation=GIVEN,
        gate=1.0,
        frozen=options.frozen,
    )
    return made


def distill(
    session: Session,
    text: str,
    workdir: Path,
    options: Options = Options(),
    argv: Sequence[str] = (),
    given: Sequence[str] = (),
    progress: bool = True,
) -> Distilled:
    """Makes a prefix that stands for a document, and writes a run directory with it; resumes one that was stopped.

    The teacher is the model with the whole document's keys and values as prefix: it answers the questions that the
    model writes about chunks of the document, and what is made is compared with it on held-out ones.

    Args:
      session: its configuration is that of `configured`.
      text: the document.
      argv: the command line, for the run directory.
      given: questions in place of those that the model writes; the first ones are held out.

    Raises:
      UserError: the model cannot have the document as a prefix, an option is out of range, or `workdir` holds another
        document or run.
    """
    options.check()
    frame = framing.framed(session, text, options.chat)
    ids = np.asarray(frame.ids, np.int32)
    if options.length > len(ids):
        raise UserError(f"length is {options.length}, and the document has only {len(ids)} tokens; lower it")
    document.check(session.model_config, len(ids), room=2 * options.asking.answer_tokens)
    session = session.of(with_document(session.config, frame, len(ids), workdir))
    _claim(workdir, session, ids, options, given)
    teacher = document.read(session.model, session.base, ids)
    wanted = len(given) or options.held_out + (options.questions if options.method in _STUDIED else 0)
    found = study.rows(session, teacher, text, wanted, options.asking, workdir, given, progress)
    splits = study.divided(found, options.held_out)
    write_study_splits(workdir, splits)
    _check_splits(splits, options)
    sets = {split: token_ids(session, split) for split in splits}
    starts, errors = _starts(session, teacher, ids, sets.get("train"), options)
    made: Prefix | None = starts[options.method]
    if options.method == "train":
        learnt = {split: data for split, data in sets.items() if split != "test"}
        made = _trained(session, teacher, ids, starts["train"], learnt, options, workdir, argv)
    if made is None:
        return Distilled(session, starts[options.method], {}, len(ids), errors, finished=False)
    shown = {BARE: None, **starts, options.method: made}
    result = Distilled(session, made, fidelity.measure(session, teacher, shown, sets["test"]), len(ids), errors)
    _write(workdir, result, options, argv)
    return result


def _trained(
    session: Session,
    teacher: Prefix,
    ids: np.ndarray,
    start: Prefix,
    sets: Mapping[str, TokenisedSet],
    options: Options,
    workdir: Path,
    argv: Sequence[str],
) -> Prefix | None:
    """Returns a prefix trained on the teacher's answers, in a run of its own directory; None: it was stopped."""
    soft = {split: _softened(session, teacher, ids, data, options.top_k) for split, data in sets.items()}
    run = Given(loss=divergence_sums, sets=soft, start=start)
    outcome = pipeline.tune(session.config, workdir, list(argv), session, run)
    return _kept(workdir) if outcome.finished else None


def _kept(workdir: Path) -> Prefix:
    """Returns the prefix that a run wrote."""
    prefix = store.load(workdir)[0].prefix
    assert prefix is not None, "a run of method prefix writes one"
    return prefix


def _check_splits(splits: study.Splits, options: Options) -> None:
    missing = {"test", *(("train",) if options.method == "train" else ())} - set(splits)
    if missing:
        raise UserError(
            f"no {missing.pop()} question is left of those that were written or given; raise questions, or lower "
            "held_out"
        )


def with_document(config: Config, frame: framing.Frame, tokens: int, workdir: Path) -> Config:
    """Returns the configuration of texts that follow a document."""
    made = config.copy_and_resolve_references()
    made.update_from_flattened_dict({**frame.options, "prefix.offset": tokens, "data.path": str(workdir / STUDY)})
    return made


def _starts(
    session: Session, teacher: Prefix, ids: np.ndarray, asked: TokenisedSet | None, options: Options
) -> tuple[dict[str, Prefix], closed_form.Errors | None]:
    """Returns the prefixes that need no training, by method; training begins with the closed form."""
    found = {
        "first": document.first(teacher, options.length),
        "chunks": document.spread(teacher, options.length, kept=options.matching.kept),
    }
    if options.method in found:
        return found, None
    queries = _queries(session, teacher, ids, asked, options)
    cap = session.model_config.soft_cap
    matched, errors = closed_form.compress(teacher, queries, options.length, options.matching, cap)
    return {**found, "closed_form": matched, options.method: matched}, errors


def _queries(
    session: Session, teacher: Prefix, ids: np.ndarray, asked: TokenisedSet | None, options: Options
) -> np.ndarray:
    """Returns queries of reading the document again, which find all of it, and of questions and answers, half each."""
    kinds = [study.chunks(ids.tolist(), options.reread), *([] if asked is None else [whole(asked)])]
    most = options.queries // len(kinds)
    found = [document.queries(session.model, session.base, teacher, texts, most) for texts in kinds]
    return np.concatenate(found, 2)


def whole(data: TokenisedSet) -> list[list[int]]:
    """Returns sources and targets as one text each."""
    return [[*data.sources[i], *data.targets[i]] for i in range(len(data))]


def token_ids(session: Session, split: str) -> TokenisedSet:
    """Returns the token ids of a split's questions and answers, as a run reads them."""
    records = text_pairs(session.config, split)
    if is_chat(session.config):
        return conversations.fitting(session, records, split)[0]
    return token_sets.fitting(session, records, split)[1]


def _softened(session: Session, teacher: Prefix, ids: np.ndarray, data: TokenisedSet, k: int) -> TokenisedSet:
    """Returns token ids with the teacher's likeliest tokens at each target, from the cache where they are known."""
    model = sameness.checksum(session)
    parts = []
    for start in range(0, len(data), _SHARD):
        own = data.at(np.arange(start, min(start + _SHARD, len(data))))
        depends = TeacherTargets(
            version=VERSION,
            model=model,
            shapes=json.dumps(model_config_json(session.model_config), sort_keys=True, default=str),
            jax=jax.__version__,
            document=ids,
            sources=own.sources.ids,
            source_offsets=own.sources.offsets,
            targets=own.targets.ids,
            target_offsets=own.targets.offsets,
            trained=np.ones(len(own.targets.ids), bool) if own.trained is None else own.trained,
            count=k,
        )
        make = lambda own=own: fidelity.soft_targets(session, teacher, own, k)._asdict()
        parts.append(array_cache.kept(cache_path("teacher"), depends, make))
    soft = SoftTargets(*(np.concatenate([part[name] for part in parts]) for name in SoftTargets._fields))
    return dataclasses.replace(data, soft=soft)


def _claim(workdir: Path, session: Session, ids: np.ndarray, options: Options, given: Sequence[str]) -> None:
    """Writes what the directory is about, or refuses one that is about something else."""
    asked = {"asking": options.asking._asdict(), "given": hashlib.sha256("\n".join(given).encode()).hexdigest()[:16]}
    about = {
        "document": {"tokens": len(ids), "sha256": hashlib.sha256(ids.tobytes()).hexdigest()},
        "model": {**session.pretrained.identity, "numbers": sameness.checksum(session)},
        **asked,
    }
    about = json.loads(json.dumps(about, default=str))
    before = read_distillation(workdir)
    other = [name for name in ("document", "model", *asked) if before and before.get(name) != about[name]]
    changed = before.get("method", options.method) != options.method and "train" in (before["method"], options.method)
    if other or changed or (is_run(workdir) and not before):
        what = f"another {other[0]}" if other else f"a prefix by {before['method']}" if changed else "another run"
        raise UserError(f"{workdir} holds {what}; choose another --workdir")
    write_distillation(workdir, {**before, **about})


def _run_record(session: Session, prefix: Prefix, argv: Sequence[str]) -> dict[str, Any]:
    """Returns what `config.json` says of a run without training."""
    stored, base = TunedState(prefix).count(), count(session.base)
    return {
        "config": json.loads(session.config.to_json()),
        "command": " ".join(argv),
        "commit": run_directory.commit(),
        "versions": run_directory.versions(),
        "parameters": {"trained": 0, "stored": stored, "base": base},
        **sameness.ground(session),
    }


def _write(workdir: Path, result: Distilled, options: Options, argv: Sequence[str]) -> None:
    """Writes `tuned/`, unless training did, and what was measured."""
    session = result.session
    if options.method != "train":
        extra = {"method": "prefix", "step": 0, "config": session.config.to_dict()}
        store.save(workdir / TUNED, TunedState(result.prefix), session.pretrained.identity, session.model_config, extra)
        write_config(workdir, _run_record(session, result.prefix, argv))
    errors = result.errors
    record = {
        "method": options.method,
        "length": options.length,
        "compression": result.compression,
        "fidelity": {
            name: {**own._asdict(), "recovery": own.recovery(result.fidelity[BARE], result.fidelity[TEACHER])}
            for name, own in result.fidelity.items()
        },
        **({} if errors is None else {"errors": {name: part.tolist() for name, part in errors._asdict().items()}}),
    }
    write_distillation(workdir, {**read_distillation(workdir), **record})
