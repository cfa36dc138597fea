"""Using what was tuned: text for sources, and the scores of a split."""

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from prefix_jax import decoding, tasks, verdict
from prefix_jax.config import Config, default_config
from prefix_jax.data import audit, subsets, tokens
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.evaluation import files, scorers
from prefix_jax.evaluation.files import read_samples
from prefix_jax.models import finite
from prefix_jax.models.adapter_layers import LORA, TUNED
from prefix_jax.parallel import distributed
from prefix_jax.training import session
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.training.writers import read_metrics
from prefix_jax.tuning import TunedState, lora, store


@dataclass(frozen=True)
class Tuned:
    """A frozen model with what was tuned for it."""

    session: Session
    kept: TunedState
    sha256: str | None


def open_tuned(folder: Path, overrides: dict[str, Any] | None = None, opened: Session | None = None) -> Tuned:
    """Loads a `tuned/` folder (or the run directory that holds one) and the model it was made for.

    Args:
      overrides: options that replace those of the run, by dotted name.
      opened: a session that may have the model already.

    Raises:
      UserError: there is nothing tuned, or it does not fit the model.
    """
    return _open(folder, configured(folder, overrides), opened)


def configured(folder: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Returns the configuration with which `open_tuned` opens a folder, without loading the model.

    Raises:
      UserError: there is nothing tuned, or an option is out of its range.
    """
    meta = store.read_about(folder)
    config = merged(meta.get("config") or {}, overrides or {})
    config.model.source = (overrides or {}).get("model.source") or _source(folder, meta)
    return config


def _open(folder: Path, config: Config, opened: Session | None) -> Tuned:
    if opened is None or session.model_options(opened.config) != session.model_options(config):
        opened = session.open_session(config)
    opened = opened.of(config)
    kept, meta = store.load(folder, opened.model_config, opened.pretrained.identity)
    # As numpy arrays, which every process may hand to a program of all devices.
    return Tuned(opened, jax.device_get(kept) if distributed.is_multiprocess() else kept, meta.get("sha256"))


def _source(folder: Path, meta: dict[str, Any]) -> str:
    """Returns where the model is for which something was tuned: where it was then, or as the run's options name it.

    Raises:
      UserError: it is in neither place.
    """
    recorded = meta["model"].get("name") or ""
    asked = ((meta.get("config") or {}).get("model") or {}).get("source") or recorded
    if not recorded:
        raise UserError(f"{folder} does not say which model it was tuned on; add --config.model.source=DIR")
    if not os.path.isabs(recorded) or Path(recorded).is_dir():
        return recorded
    if Path(asked).expanduser().is_dir():
        return asked  # whether it is the same is compared by its weights
    raise UserError(
        f"the model that {folder} was tuned on was in {recorded}, which does not exist now; say where it is with "
        "--config.model.source=DIR"
    )


def with_merged_lora(tuned: Tuned) -> Tuned:
    """Returns the same with LoRA's updates added to copies of the model's matrices: text comes as fast as from the bare
    model, in the same type. A prefix or an adapter beside it stays.

    Raises:
      UserError: there is no LoRA, or it cannot be merged.
    """
    others = dict(tuned.kept.collections)
    updates = others.pop(LORA, None)
    if updates is None:
        raise UserError("what was tuned holds no LoRA, so there is nothing to merge")
    if TUNED in others:
        raise UserError("updates cannot be merged where fine-tuned weights take the place of the model's")
    opened = tuned.session
    params, sharder = opened.base["params"], opened.sharder
    where = None if sharder is None else sharder.base(params)
    params = jax.jit(lora.merged, out_shardings=where)(params, updates)
    whole = dataclasses.replace(opened, base={**opened.base, "params": params})
    return dataclasses.replace(tuned, session=whole, kept=TunedState(tuned.kept.prefix, others))


def merged(saved: dict[str, Any], overrides: dict[str, Any]) -> Config:
    """Returns the defaults, with a run's options and then the overrides in their place.

    The mesh is that of the devices here, not of those on which the run was.
    """
    config = default_config()
    for name, section in saved.items():
        if name not in config or name == "mesh":
            continue
        if isinstance(section, dict):
            config[name].update(
                {k: tuple(v) if isinstance(v, list) else v for k, v in section.items() if k in config[name]}
            )
        else:
            config[name] = section
    config.update_from_flattened_dict(overrides)
    config.data.task = tasks.current_name(config.data.task)
    return config


def write_texts(
    opened: Session,
    kept: TunedState | None,
    sources: Sequence[str],
    label: str = "",
    progress: bool = True,
    where: str = "input",
) -> list[str]:
    """Returns the text that the model makes of each source; `kept=None` is the bare model.

    Args:
      where: what the sources are, for the lines on stderr about those that are cut or hold unknown words; "": no lines.

    Raises:
      UserError: a source is empty or too long, or has a word that the model lacks; a decoding option does not fit; the
        model's outputs are not finite.
    """
    options = _options(opened)
    for row, source in enumerate(sources):
        if not source.strip():
            raise UserError(f"input {row + 1} is empty; give it text or leave it out")
    kept = kept or TunedState()
    ragged = _sources(opened, sources, where, kept.reserved)
    ids = [[opened.model_config.pad_id] * kept.reserved + ragged[i].tolist() for i in range(len(sources))]
    model, variables, prefix = opened.model, kept.onto(opened.base), kept.prefix
    batch = min(opened.config.decoding.batch, len(ids))
    try:
        if not progress or not distributed.is_primary():
            return opened.printer.texts(decoding.decode_all(model, variables, prefix, ids, options, batch))
        with Progress(len(ids), start=0, label=label) as bar:
            done = lambda count: bar.update(count, {})
            found = decoding.decode_all(model, variables, prefix, ids, options, batch, done)
    except decoding.NotFinite as error:
        said = f"the model's outputs for input {error.row + 1} are not finite"
        raise UserError(f"{said}: {finite.blame(opened.base, kept)}") from None
    return opened.printer.texts(found)


def _options(opened: Session) -> decoding.GenerationConfig:
    options = decoding.GenerationConfig.from_config(opened.config.decoding, opened.more_ends)
    if distributed.is_primary() and set(opened.printer.ends) <= set(options.banned_tokens):
        said = f"decoding.banned_tokens has every token that ends a text ({', '.join(map(str, opened.printer.ends))})"
        print(f"{said}: all texts run to decoding.max_length={options.max_length}", file=sys.stderr)
    return options


def _sources(opened: Session, sources: Sequence[str], where: str, reserved: int) -> tokens.Ragged:
    """Returns the sources' ids, checked; says what the tokenizer did to them."""
    data, format = opened.config.data, opened.formats.source
    limit, window = data.max_source_length, opened.model_config.context_length
    if opened.model_config.is_encoder_decoder and window is not None:  # as training cuts them
        limit = min(limit, window - reserved)
    ragged, whole = tokens.sources_and_lengths(sources, opened.tokenizer, format, limit)
    opened.check_ids(ragged, lambda i: f"input {i + 1}")
    if where:
        frame = tokens.frame(format, "source", opened.tokenizer)
        found = audit.source_findings(sources, ragged, whole, frame, opened.tokenizer, limit)
        audit.say(where, found, audit.strict(data.strict), quiet=not distributed.is_primary())
    return ragged


def evaluate(
    workdir: Path,
    split: str,
    bare: bool = False,
    tuned: bool = True,
    limit: int = 0,
    overrides: dict | None = None,
    spread: bool = False,
    opened: Session | None = None,
) -> dict:
    """Scores a run's prefix on a split and writes `scores.json` and `samples.jsonl`; returns the split's entry.

    The scorers and the disk are tried before the model is loaded. Texts are written before they are scored, and where a
    scorer fails the next call scores them as they are.

    Args:
      bare: also score the model without the prefix.
      tuned: score the model with it; False keeps what an earlier call found.
      limit: records scored, from the start of the split; 0: all.
      spread: take the `limit` records evenly spaced over the split, not its first ones.
      opened: a session that may have the model already.

    Raises:
      UserError: nothing is tuned, the data cannot be had, a scorer fails, or there is nothing earlier to keep.
    """
    config = configured(workdir, overrides)
    records = session.text_inputs(config, split)
    if limit:
        records = subsets.evenly_spaced(records, limit) if spread else records[:limit]
    distributed.by_primary(lambda: _try_out(config, workdir, records))
    found = _open(workdir, config, opened)
    about = {"task": config.data.task, "records": len(records), "decoding": config.decoding.to_dict()}
    about |= {"spread": True} if spread and limit else {}
    about |= {"keep_special_tokens": kept_tokens} if (kept_tokens := config.data.keep_special_tokens) else {}
    _say_of_references(found.session, records, split)
    scored = _Scored(workdir, split, found, records, about)
    if not tuned and not scored.has("tuned"):
        raise UserError(f"{workdir} has no scores of this prefix on these records to keep; leave out --notuned")
    wanted = [name for name, asked in (("tuned", tuned), ("bare", bare)) if asked]
    for name in wanted:
        # What concerns the sources is said once.
        scored.decode(name, "" if name == "bare" and tuned else split)
    entry = distributed.by_primary(lambda: scored.score(wanted))
    if entry["verdict"] and distributed.is_primary():
        print(f"warning: {verdict.sentence(entry['verdict'])}", file=sys.stderr)
    return entry


def _say_of_references(opened: Session, records: Sequence[Record], split: str) -> None:
    """Says which references no output can equal."""
    longest = opened.config.decoding.max_length
    lines = audit.reference_findings(records, opened.printer, opened.formats.target, longest)
    audit.say(split, lines, audit.strict(opened.config.data.strict), quiet=not distributed.is_primary())


def _try_out(config: Config, workdir: Path, records: Sequence[Record]) -> None:
    decoding.GenerationConfig.from_config(config.decoding)
    scorers.try_out(config)
    scorers.try_records(config, records)
    scorers.try_disk(workdir, records)


class _Scored:
    """A split's entry of `scores.json` and its texts, from what an earlier call wrote to what this one adds."""

    def __init__(self, workdir: Path, split: str, found: Tuned, records: Sequence[Record], about: dict[str, Any]):
        self.workdir, self.split, self.found, self.records = workdir, split, found, records
        self.config = found.session.config
        samples = files.known_samples(workdir)
        self.others = [row for row in samples if row["split"] != split]
        own = [row for row in samples if row["split"] == split]
        self.entry, self.texts = _earlier(workdir, split, about, own, records)
        self.earlier_prefix = self.entry.get("prefix")
        self.entry["prefix"] = found.sha256
        distributed.barrier("scores are read")  # before process 0 writes them

    def has(self, name: str) -> bool:
        """Whether there are texts of this prefix, or for "bare" of this model."""
        return bool(self.texts[name]) and (name == "bare" or self.earlier_prefix == self.found.sha256)

    def decode(self, name: str, where: str) -> None:
        """Makes the texts and writes them down, unless an earlier call has made them and could not score them.

        `where` names the sources in what is said of them; empty: nothing is said.
        """
        unscored = self.entry.setdefault("unscored", {})
        key = _key(self.config, self.found.sha256 if name == "tuned" else None)
        if self.has(name) and unscored.get(name) == key:
            if distributed.is_primary():
                print(f"scoring the texts that an earlier call has decoded ({self.split}, {name})", file=sys.stderr)
            return
        kept = self.found.kept if name == "tuned" else None
        what = f"with {self.config.method.replace('+', ' and ')}" if name == "tuned" else "bare model"
        sources = [record.source for record in self.records]
        self.texts[name], seconds = _timed(self.found.session, kept, sources, f"{self.split}, {what}", where)
        self.entry["seconds"] = {**self.entry.get("seconds", {}), name: round(seconds, 1)}
        unscored[name] = key
        if distributed.is_primary():
            files.write_samples(self.workdir, self.split, self.records, self.texts, self.others)
            files.write_scores(self.workdir, self.split, self.entry)

    def score(self, wanted: Sequence[str]) -> dict[str, Any]:
        """Scores what is wanted, and what was scored in another way or not at all; writes and returns the entry."""
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
        files.write_scores(self.workdir, self.split, entry)
        files.write_samples(self.workdir, self.split, self.records, self.texts, self.others)
        return entry

    def _score(self, name: str) -> None:
        try:
            measured = scorers.score(self.config, self.records, self.texts[name])
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            raise UserError(
                f"{reason.rstrip('.')}; the texts are kept in {self.workdir}/samples.jsonl, and the same command "
                "scores them without decoding them again"
            ) from error
        self.entry[name] = measured.scores
        for key, values in (("not_measured", measured.unmeasured), ("signatures", measured.signatures)):
            self.entry.pop(key, None)
            if values:
                self.entry[key] = values

    def _verdict(self) -> list[Any]:
        texts = self.texts["tuned"]
        findings = verdict.of_metrics(read_metrics(self.workdir), bool(self.config.training.patience))
        if texts:
            scores = self.entry.get("tuned", {})
            references, sources = [r.references for r in self.records], [r.source for r in self.records]
            findings += verdict.of_outputs(
                texts, references, sources, scores, self.entry.get("bare"), scorers.lower_is_better(self.config, scores)
            )
        return list(findings)


def _earlier(
    workdir: Path, split: str, about: dict[str, Any], rows: list[dict[str, Any]], records: Sequence[Record]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns the scores and texts of an earlier call with the same task, records and decoding; else empty ones.

    `rows` are the split's samples.
    """
    entry = files.read_scores(workdir).get(split, {})
    if "task" in entry:
        entry["task"] = tasks.current_name(entry["task"])
    wanted = {"spread": None, "keep_special_tokens": None, **about}
    same = all(_plain(entry.get(key)) == _plain(value) for key, value in wanted.items())
    if not same or not files.same_records(rows, records):
        if entry.get("records", 0) > about["records"] and distributed.is_primary():
            print(f"replacing the scores of {entry['records']} records of {split} by those of fewer", file=sys.stderr)
        return dict(about), {"tuned": [], "bare": []}
    texts = {name: [row.get(name) for row in rows] for name in ("tuned", "bare")}
    return entry, {name: found if None not in found else [] for name, found in texts.items()}


def _key(config: Config, sha256: str | None) -> str:
    """Returns a hash of all that texts depend on beside their inputs."""
    data = {k: v for k, v in config.data.to_dict().items() if k not in ("path", "language")}
    options = [config.model.to_dict(), data, config.decoding.to_dict(), sha256]
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _timed(
    opened: Session, kept: TunedState | None, sources: list[str], label: str, where: str
) -> tuple[list[str], float]:
    start = time.monotonic()
    return write_texts(opened, kept, sources, label, where=where), time.monotonic() - start


__all__ = ["Tuned", "configured", "evaluate", "merged", "open_tuned", "read_samples", "with_merged_lora", "write_texts"]
