"""Using what was tuned: text for sources, and the scores of a split."""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from prefix_jax import decoding, verdict
from prefix_jax.config import Config, default_config
from prefix_jax.data import subsets
from prefix_jax.data.records import Record
from prefix_jax.data.tokens import tokenise_sources
from prefix_jax.errors import UserError
from prefix_jax.evaluation import files, scorers
from prefix_jax.evaluation.files import read_samples
from prefix_jax.models.injected import LORA, TUNED
from prefix_jax.parallel import hosts
from prefix_jax.training import session
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.training.writers import read_metrics
from prefix_jax.tuning import Kept, lora, store


@dataclass(frozen=True)
class Tuned:
    """A frozen model with what was tuned for it."""

    session: Session
    kept: Kept
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
    _, meta = store.load(folder)
    config = merged(meta.get("config") or {}, overrides or {})
    config.model.source = (overrides or {}).get("model.source", meta["model"]["name"])
    return config


def _open(folder: Path, config: Config, opened: Session | None) -> Tuned:
    if opened is None or session.model_options(opened.config) != session.model_options(config):
        opened = session.open_session(config)
    opened = opened.of(config)
    kept, meta = store.load(folder, opened.spec, opened.pretrained.identity)
    # As numpy arrays, which every process may hand to a program of all devices.
    return Tuned(opened, jax.device_get(kept) if hosts.several() else kept, meta.get("sha256"))


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
    params, placement = opened.base["params"], opened.placement
    where = None if placement is None else placement.base(params)
    params = jax.jit(lora.merged, out_shardings=where)(params, updates)
    whole = dataclasses.replace(opened, base={**opened.base, "params": params})
    return dataclasses.replace(tuned, session=whole, kept=Kept(tuned.kept.prefix, others))


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
    return config


def write_texts(
    opened: Session, kept: Kept | None, sources: Sequence[str], label: str = "", progress: bool = True
) -> list[str]:
    """Returns the text that the model makes of each source; `kept=None` is the bare model.

    Raises:
      UserError: a source is empty or too long, or a decoding option does not fit.
    """
    section = opened.config.decoding
    options = decoding.Options.from_config(section)
    for row, source in enumerate(sources):
        if not source.strip():
            raise UserError(f"input {row + 1} is empty; give it text or leave it out")
    ragged = tokenise_sources(sources, opened.tokenizer, opened.formats.source, opened.config.data.max_source_length)
    kept = kept or Kept()
    ids = [[opened.spec.pad_id] * kept.reserved + ragged[i].tolist() for i in range(len(sources))]
    model, variables, prefix = opened.model, kept.onto(opened.base), kept.prefix
    batch = min(section.batch, len(ids))
    if not progress or not hosts.leader():
        return _texts(opened, decoding.decode_all(model, variables, prefix, ids, options, batch))
    with Progress(len(ids), start=0, label=label) as bar:
        tokens = decoding.decode_all(model, variables, prefix, ids, options, batch, lambda done: bar.update(done, {}))
    return _texts(opened, tokens)


def _texts(opened: Session, token_lists: list[list[int]]) -> list[str]:
    tokenizer = opened.tokenizer
    decoded = tokenizer.batch_decode(token_lists, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in decoded]


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
        records = subsets.spread(records, limit) if spread else records[:limit]
    hosts.by_leader(lambda: _try_out(config, workdir, records))
    found = _open(workdir, config, opened)
    about = {"task": config.data.task, "records": len(records), "decoding": config.decoding.to_dict()}
    about |= {"spread": True} if spread and limit else {}
    scored = _Scored(workdir, split, found, records, about)
    if not tuned and not scored.has("tuned"):
        raise UserError(f"{workdir} has no scores of this prefix on these records to keep; leave out --notuned")
    wanted = [name for name, asked in (("tuned", tuned), ("bare", bare)) if asked]
    for name in wanted:
        scored.decode(name)
    entry = hosts.by_leader(lambda: scored.score(wanted))
    if entry["verdict"] and hosts.leader():
        print(f"warning: {verdict.sentence(entry['verdict'])}", file=sys.stderr)
    return entry


def _try_out(config: Config, workdir: Path, records: Sequence[Record]) -> None:
    decoding.Options.from_config(config.decoding)
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
        hosts.wait("scores are read")  # before process 0 writes them

    def has(self, name: str) -> bool:
        """Whether there are texts of this prefix, or for "bare" of this model."""
        return bool(self.texts[name]) and (name == "bare" or self.earlier_prefix == self.found.sha256)

    def decode(self, name: str) -> None:
        """Makes the texts and writes them down, unless an earlier call has made them and could not score them."""
        unscored = self.entry.setdefault("unscored", {})
        key = _key(self.config, self.found.sha256 if name == "tuned" else None)
        if self.has(name) and unscored.get(name) == key:
            if hosts.leader():
                print(f"scoring the texts that an earlier call has decoded ({self.split}, {name})", file=sys.stderr)
            return
        kept = self.found.kept if name == "tuned" else None
        what = f"with {self.config.method.replace('+', ' and ')}" if name == "tuned" else "bare model"
        sources = [record.source for record in self.records]
        self.texts[name], seconds = _timed(self.found.session, kept, sources, f"{self.split}, {what}")
        self.entry["seconds"] = {**self.entry.get("seconds", {}), name: round(seconds, 1)}
        unscored[name] = key
        if hosts.leader():
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
            references, sources = [r.references for r in self.records], [r.source for r in self.records]
            findings += verdict.of_outputs(
                texts, references, sources, self.entry.get("tuned", {}), self.entry.get("bare")
            )
        return list(findings)


def _earlier(
    workdir: Path, split: str, about: dict[str, Any], rows: list[dict[str, Any]], records: Sequence[Record]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns the scores and texts of an earlier call with the same task, records and decoding; else empty ones.

    `rows` are the split's samples.
    """
    entry = files.read_scores(workdir).get(split, {})
    same = all(_plain(entry.get(key)) == _plain(value) for key, value in {"spread": None, **about}.items())
    if not same or not files.same_records(rows, records):
        if entry.get("records", 0) > about["records"] and hosts.leader():
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


def _timed(opened: Session, kept: Kept | None, sources: list[str], label: str) -> tuple[list[str], float]:
    start = time.monotonic()
    return write_texts(opened, kept, sources, label), time.monotonic() - start


__all__ = ["Tuned", "configured", "evaluate", "merged", "open_tuned", "read_samples", "with_merged_lora", "write_texts"]
