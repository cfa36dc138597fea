"""Use of a tuned model: text generation for sources, and the scores of a split."""

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
from prefix_jax.config import default_config
from prefix_jax.data import audit, languages, subsets, tokens
from prefix_jax.data.records import Record
from prefix_jax.errors import UserError
from prefix_jax.evaluation import files, scorers
from prefix_jax.models import finite
from prefix_jax.models.adapter_layers import LORA, TUNED
from prefix_jax.options import Config
from prefix_jax.parallel import distributed
from prefix_jax.training import session
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState, lora, store
from prefix_jax.workdir import SAMPLES, read_metrics, read_samples


@dataclass(frozen=True)
class Tuned:
    """A frozen model with its tuned state."""

    session: Session
    kept: TunedState
    sha256: str | None


def open_tuned(folder: Path, overrides: dict[str, Any] | None = None, opened: Session | None = None) -> Tuned:
    """Loads a `tuned/` folder (or the run directory that contains it) and the model it was tuned on.

    Args:
      overrides: options that replace those of the run, by dotted name.
      opened: a session that may already have loaded the model.

    Raises:
      UserError: nothing was tuned, or it does not match the model.
    """
    return _open(folder, configured(folder, overrides), opened)


def configured(folder: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Returns the configuration that `open_tuned` would use for a folder, without loading the model.

    Raises:
      UserError: nothing was tuned, or an option is out of range.
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
    # Numpy arrays, which every process may pass to a program on all devices.
    return Tuned(opened, jax.device_get(kept) if distributed.is_multiprocess() else kept, meta.get("sha256"))


def _source(folder: Path, meta: dict[str, Any]) -> str:
    """Returns the source of the tuned model: the recorded path, or as the run's options name it.

    Raises:
      UserError: neither exists.
    """
    recorded = meta["model"].get("name") or ""
    asked = ((meta.get("config") or {}).get("model") or {}).get("source") or recorded
    if not recorded:
        raise UserError(f"{folder} does not say which model it was tuned on; add --config.model.source=DIR")
    if not os.path.isabs(recorded) or Path(recorded).is_dir():
        return recorded
    if Path(asked).expanduser().is_dir():
        return asked  # its weights are compared later
    raise UserError(
        f"the model that {folder} was tuned on was in {recorded}, which does not exist now; say where it is with "
        "--config.model.source=DIR"
    )


def with_merged_lora(tuned: Tuned) -> Tuned:
    """Merges LoRA's updates into copies of the model's matrices, of the same dtype, so that generation is as fast as
    with the bare model. A prefix or an adapter is preserved.

    Raises:
      UserError: the tuned state has no LoRA, or it cannot be merged.
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
    """Returns the defaults, updated with a run's options and then the overrides.

    The mesh is that of the current devices, not of those used for training.
    """
    config = default_config(str(saved.get("method", default_config().method)))
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
    """Generates the model's text for each source; `kept=None` is the bare model.

    Args:
      where: name of the sources, for warnings about truncated sources or unknown words; "": no warnings.

    Raises:
      UserError: a source is empty, too long, or has unknown token ids; a decoding option is invalid; or the model's
        outputs are not finite.
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
    model = decoding.of_model(opened.pretrained.config, opened.model_config)
    model = model._replace(forced_bos=_first_token(opened, model.forced_bos))
    options = decoding.GenerationConfig.from_config(opened.config.decoding, opened.more_ends, model)
    if distributed.is_primary() and set(opened.printer.ends) <= set(options.banned_tokens):
        said = f"decoding.banned_tokens has every token that ends a text ({', '.join(map(str, opened.printer.ends))})"
        print(f"{said}: all texts run to decoding.max_length={options.max_length}", file=sys.stderr)
    return options


def _first_token(opened: Session, of_model: int | None) -> int | None:
    """Returns the token that every text begins with: of the option, of the target language, or of the model."""
    name, data = opened.config.decoding.forced_bos_token, opened.config.data
    if name == "none":
        return None
    if name:
        if not opened.model_config.is_encoder_decoder:
            raise UserError("decoding.forced_bos_token is for encoder-decoder models; put the token into the prompt")
        token = opened.tokenizer.convert_tokens_to_ids(name)
        if token is None or token == opened.tokenizer.unk_token_id or not 0 <= token < opened.model_config.vocab_size:
            raise UserError(f'decoding.forced_bos_token "{name}" is not a token of this model\'s vocabulary')
        return token
    if not data.target_language:
        return of_model
    first = languages.begin(opened.tokenizer, data.target_language).first
    return of_model if first is None else first


def _sources(opened: Session, sources: Sequence[str], where: str, reserved: int) -> tokens.Ragged:
    """Returns the checked token ids of the sources, and reports tokenisation losses."""
    data, format = opened.config.data, opened.formats.source
    limit, window = data.max_source_length, opened.model_config.context_length
    if opened.model_config.is_encoder_decoder and window is not None:  # truncated as in training
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

    Scorers and disk space are checked before the model is loaded. Texts are written before they are scored, so that the
    next call after a scorer failure scores the same texts.

    Args:
      bare: whether to score the bare model too.
      tuned: whether to score the tuned model; False keeps earlier scores.
      limit: number of records to score, from the start of the split; 0: all.
      spread: take the `limit` records evenly spaced over the split instead of the first ones.
      opened: a session that may already have loaded the model.

    Raises:
      UserError: nothing is tuned, the data are unavailable, a scorer fails, or there are no earlier scores to keep.
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
        # Warnings about the sources are printed once.
        scored.decode(name, "" if name == "bare" and tuned else split)
    entry = distributed.by_primary(lambda: scored.score(wanted))
    if entry["verdict"] and distributed.is_primary():
        print(f"warning: {verdict.sentence(entry['verdict'])}", file=sys.stderr)
    return entry


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


class _Scored:
    """A split's entry of `scores.json` and its texts, combined from an earlier call and this one."""

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
        sources = [record.source for record in self.records]
        self.texts[name], seconds = _timed(self.found.session, kept, sources, f"{self.split}, {what}", where)
        self.entry["seconds"] = {**self.entry.get("seconds", {}), name: round(seconds, 1)}
        unscored[name] = key
        if distributed.is_primary():
            files.write_samples(self.workdir, self.split, self.records, self.texts, self.others)
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
        files.write_scores(self.workdir, self.split, entry)
        files.write_samples(self.workdir, self.split, self.records, self.texts, self.others)
        return entry

    def _score(self, name: str) -> None:
        try:
            measured = scorers.score(self.config, self.records, self.texts[name])
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
    """Returns the scores and texts of an earlier call with the same task, records and decoding; otherwise empty ones.

    `rows` are the split's samples.
    """
    entry = files.known_scores(workdir).get(split, {})
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
    """Returns a hash of everything that texts depend on besides their inputs."""
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
