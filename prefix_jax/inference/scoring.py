"""Scores of a run on a split: texts are generated, kept, and scored; earlier scores are reused."""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefix_jax import checksums, decoding, tasks, verdict
from prefix_jax.config import default_config
from prefix_jax.data import audit, subsets, text_files
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.evaluation import answers, files, forgetting, scorers
from prefix_jax.inference.answering import likelihoods, outputs
from prefix_jax.inference.opening import Tuned, configured, open_configured
from prefix_jax.options import Config, option
from prefix_jax.parallel import distributed
from prefix_jax.training.plain_text import is_plain
from prefix_jax.training.selection import hashes, text_inputs
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState
from prefix_jax.workdir import SAMPLES, read_metrics


def evaluate(
    workdir: Path,
    split: str,
    bare: bool = False,
    tuned: bool = True,
    limit: int = 0,
    overrides: dict | None = None,
    spread: bool = False,
    opened: Session | None = None,
    plain_text: Path | None = None,
) -> dict:
    """Does what `evaluate_opened` does; returns the split's entry alone."""
    return evaluate_opened(workdir, split, bare, tuned, limit, overrides, spread, opened, plain_text)[0]


def evaluate_opened(
    workdir: Path,
    split: str,
    bare: bool = False,
    tuned: bool = True,
    limit: int = 0,
    overrides: dict | None = None,
    spread: bool = False,
    opened: Session | None = None,
    plain_text: Path | None = None,
) -> tuple[dict, Tuned]:
    """Scores a run's prefix on a split and writes `scores.json` and `samples.jsonl`.

    Returns the split's entry of `scores.json`, and the model with what was tuned, which need not be opened again.

    Scorers and disk space are checked before the model is loaded. Texts are written before they are scored, so that the
    next call after a scorer failure scores the same texts.

    Args:
      bare: whether to score the bare model too.
      tuned: whether to score the tuned model; False keeps earlier scores.
      limit: number of records to score, from the start of the split; 0: all.
      spread: take the `limit` records evenly spaced over the split instead of the first ones.
      opened: a session that may already have loaded the model.
      plain_text: a UTF-8 file for which forgetting is measured; None: earlier figures are kept.

    Raises:
      UserError: nothing is tuned, the data or the plain text are unavailable, a scorer fails, or there are no earlier
        scores to keep.
    """
    text = None if plain_text is None else text_files.read_text(plain_text, "text")
    config = configured(workdir, overrides)
    records = text_inputs(config, split)
    if limit:
        records = subsets.evenly_spaced(records, limit) if spread else records[:limit]
    distributed.by_primary(lambda: _try_out(config, workdir, records))
    found = open_configured(workdir, config, opened)
    about = {"task": config.data.task, "records": len(records), "decoding": config.decoding.to_dict()}
    about |= {"spread": True} if spread and limit else {}
    about |= answers.options(config, records)
    about |= {"keep_special_tokens": kept_tokens} if (kept_tokens := config.data.keep_special_tokens) else {}
    if not is_plain(config):
        _say_of_references(found.session, records, split)
    scored = SplitScores(workdir, split, found, records, about)
    if distributed.is_primary():
        scored.entry["inputs"] = hashes(config, split)
    if not tuned and not scored.has("tuned"):
        raise UserError(f"{workdir} has no scores of this prefix on these records to keep; leave out --notuned")
    if plain_text is not None and text is not None:
        scored.entry["forgetting"] = _forgetting(found, plain_text, text)
    wanted = [name for name, asked in (("tuned", tuned), ("bare", bare)) if asked]
    for name in wanted:
        # Warnings about the sources are printed once.
        scored.decode(name, "" if name == "bare" and tuned else split)
    words = ["--spread"] if spread and limit else []
    words += ["--limit", str(limit)] if limit else []
    words += ["--forgetting", str(plain_text)] if plain_text is not None else []
    words += [option(f"config.{name}", value) for name, value in (overrides or {}).items()]
    scored.command = ["python", "-m", "prefix_jax.evaluate", "--workdir", str(workdir), "--split", split, *words]
    entry = distributed.by_primary(lambda: scored.score(wanted))
    if entry["verdict"] and distributed.is_primary():
        print(f"warning: {verdict.sentence(entry['verdict'])}", file=sys.stderr)
    return entry, found


def _forgetting(found: Tuned, path: Path, text: str) -> dict[str, Any]:
    """Returns the figures of a plain text, as `scores.json` holds them."""
    about = {"file": path.name, "checksum": checksums.of_bytes(text.encode())}
    return about | forgetting.measure(found.session, found.kept, text)


def _say_of_references(opened: Session, records: Sequence[Record], split: str) -> None:
    """Reports references that no output can equal."""
    longest = opened.config.decoding.max_length
    lines = audit.reference_findings(records, opened.printer, opened.formats.target, longest)
    audit.say(split, lines, audit.strict(opened.config.data.strict), quiet=not distributed.is_primary())


def _try_out(config: Config, workdir: Path, records: Sequence[Record]) -> None:
    decoding.GenerationConfig.from_config(config.decoding)
    scorers.try_out(config)
    scorers.try_records(config, records)
    scorers.try_disk(workdir, records)


class SplitScores:
    """A split's entry of `scores.json` and its texts, combined from an earlier call and this one."""

    def __init__(self, workdir: Path, split: str, found: Tuned, records: Sequence[Record], about: dict[str, Any]):
        self.workdir, self.split, self.found, self.records = workdir, split, found, records
        self.command: list[str] = []
        self.config = found.session.config
        samples = files.known_samples(workdir)
        self.others = [row for row in samples if row["split"] != split]
        own = [row for row in samples if row["split"] == split]
        self.entry, self.texts = _earlier(workdir, split, about, own, records)
        self.likelihoods = _likelihoods(own) if self.texts["tuned"] or self.texts["bare"] else {}
        self.earlier_prefix = self.entry.get("prefix")
        self.entry["prefix"] = found.sha256
        if self.earlier_prefix != found.sha256:
            self.entry.pop("forgetting", None)
        distributed.barrier("scores are read")  # before process 0 writes them

    def has(self, name: str) -> bool:
        """Returns whether there are texts of this tuned state, or for "bare" of this model."""
        return bool(self.texts[name]) and (name == "bare" or self.earlier_prefix == self.found.sha256)

    def decode(self, name: str, where: str) -> None:
        """Generates and writes the texts, unless an earlier call did but could not score them.

        `where` names the sources in warnings; empty: no warnings.
        """
        unscored = self.entry.setdefault("unscored", {})
        key = _key(self.config, self.found.sha256 if name == "tuned" else None)
        if self.has(name) and unscored.get(name) == key:
            if distributed.is_primary():
                print(f"scoring the texts that an earlier call has decoded ({self.split}, {name})", file=sys.stderr)
            return
        kept = self.found.kept if name == "tuned" else None
        what = f"with {self.config.method.replace('+', ' and ')}" if name == "tuned" else "bare model"
        session, label = self.found.session, f"{self.split}, {what}"
        self.texts[name], seconds = _timed(session, kept, self.records, label, where)
        self.likelihoods[name] = likelihoods(session, kept, self.records, f"{label}, loss")
        self.entry["seconds"] = {**self.entry.get("seconds", {}), name: round(seconds, 1)}
        unscored[name] = key
        if distributed.is_primary():
            self._write_samples()
            files.write_scores(self.workdir, self.split, self.entry)

    def score(self, wanted: Sequence[str]) -> dict[str, Any]:
        """Scores the requested models, and any scored differently or not at all; writes and returns the entry."""
        entry = self.entry
        how = scorers.how(self.config)
        other = {**scorers.DEFAULT, **entry.get("scoring", {})} != how
        for name in ("tuned", "bare"):
            if self.texts[name] and (name in wanted or other or name not in entry):
                self._score(name)
        entry["scoring"] = how
        entry.pop("metrics", None)
        if about := scorers.about_metrics(self.config):
            entry["metrics"] = about
        entry.pop("unscored", None)
        entry["verdict"] = self._verdict()
        if self.command:
            entry["command"] = shlex.join([*self.command, *(["--bare"] if self.texts["bare"] else [])])
        files.write_scores(self.workdir, self.split, entry)
        self._write_samples()
        return entry

    def _write_samples(self) -> None:
        files.write_samples(self.workdir, self.split, self.records, self.texts, self.others, self.likelihoods)

    def _score(self, name: str) -> None:
        try:
            measured = scorers.score(self.config, self.records, self.texts[name], self.likelihoods.get(name, ()))
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            raise UserError(
                f"{reason.rstrip('.')}; the texts are kept in {self.workdir / SAMPLES}, and the same command "
                "scores them without decoding them again"
            ) from error
        self.entry[name] = measured.scores
        for key, values in (("not_measured", measured.unmeasured), ("signatures", measured.signatures)):
            self.entry.pop(key, None)
            if values:
                self.entry[key] = values
        files.set_details(self.entry, name, measured.details)

    def _verdict(self) -> list[Any]:
        texts = self.texts["tuned"]
        findings = verdict.of_metrics(read_metrics(self.workdir), bool(self.config.training.patience))
        if texts and (is_plain(self.config) or scorers.by_likelihood_alone(self.config)):
            scores = self.entry.get("tuned", {})
            lower = scorers.lower_is_better(self.config, scores)
            findings += verdict.of_scores(scores, self.entry.get("bare"), lower)
        elif texts:
            scores = self.entry.get("tuned", {})
            references, sources = [r.references for r in self.records], [r.source for r in self.records]
            lower = scorers.lower_is_better(self.config, scores)
            choices = [record.choices for record in self.records]
            findings += verdict.of_outputs(texts, references, sources, scores, self.entry.get("bare"), lower, choices)
        return list(findings)


def _earlier(
    workdir: Path, split: str, about: dict[str, Any], rows: list[dict[str, Any]], records: Sequence[Record]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns the scores and texts of an earlier call with the same task, records and decoding; otherwise empty ones.

    `rows` are the split's samples.
    """
    entry = files.known_scores(workdir).get(split, {})
    if isinstance(entry.get("decoding"), dict):  # an earlier version did not know all of today's options
        entry["decoding"] = {**default_config().decoding.to_dict(), **entry["decoding"]}
    if "task" in entry:
        entry["task"] = tasks.current_name(entry["task"])
    wanted = {"spread": None, "keep_special_tokens": None, "choices": None, **about}
    same = all(_plain(entry.get(key)) == _plain(value) for key, value in wanted.items())
    if not same or not files.same_records(rows, records):
        earlier = entry.get("records")
        if isinstance(earlier, int) and earlier > about["records"] and distributed.is_primary():
            print(f"replacing the scores of {earlier} records of {split} by those of fewer", file=sys.stderr)
        kept = {key: entry[key] for key in ("prefix", "forgetting") if key in entry}  # not of these records
        return about | kept, {"tuned": [], "bare": []}
    texts = {name: [row.get(name) for row in rows] for name in ("tuned", "bare")}
    return entry, {name: found if None not in found else [] for name, found in texts.items()}


def _likelihoods(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns the log-likelihoods in a split's samples, by model."""
    kept = {name: [row.get("likelihoods", {}).get(name) for row in rows] for name in ("tuned", "bare")}
    return {name: found for name, found in kept.items() if found and None not in found}


def _key(config: Config, sha256: str | None) -> str:
    """Returns a hash of everything that texts depend on besides their inputs."""
    data = {k: v for k, v in config.data.to_dict().items() if k not in ("path", "language")}
    options = [config.model.to_dict(), data, config.task.to_dict(), config.decoding.to_dict(), sha256]
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _timed(
    opened: Session, kept: TunedState | None, records: Sequence[Record], label: str, where: str
) -> tuple[list[str], float]:
    start = time.monotonic()
    return outputs(opened, kept, records, label, where=where), time.monotonic() - start
