"""From a configuration to what training, evaluation and generation share: the frozen model, its data and its method."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from prefix_jax import tasks, tuning
from prefix_jax.config import check_ranges
from prefix_jax.data import audit, languages, subsets, tokens
from prefix_jax.data.records import Record, group
from prefix_jax.data.texts import Printer
from prefix_jax.data.tokens import Formats, Limits, Ragged, TokenisedSet, default_formats
from prefix_jax.dependencies import DataAudit, TokenIds
from prefix_jax.errors import UserError
from prefix_jax.models import Model, build
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained import Pretrained, cache_path, load
from prefix_jax.options import Config
from prefix_jax.parallel import distributed
from prefix_jax.parallel.mesh import MeshSharder, place
from prefix_jax.tuning import Method


@dataclass(frozen=True)
class Session:
    """The frozen model of a configuration and how text becomes its tokens. `base` is what `model.apply` takes first.

    `sharder` says where arrays lie on the devices; None where there is only one.
    """

    config: Config
    pretrained: Pretrained
    model: Model
    base: dict[str, Any]
    sharder: MeshSharder | None = None

    def of(self, config: Config) -> "Session":
        """Returns the session of another configuration with the same model."""
        return dataclasses.replace(self, config=config)

    @property
    def model_config(self) -> ModelConfig:
        return self.pretrained.model_config

    @property
    def spec(self) -> ModelConfig:
        """The earlier name of `model_config`."""
        return self.model_config

    @property
    def tokenizer(self) -> Any:
        return self.pretrained.tokenizer

    @property
    def formats(self) -> Formats:
        data = self.config.data
        if data.source_format and data.target_format:
            return Formats(data.source_format, data.target_format)
        encoder_decoder = self.model_config.is_encoder_decoder
        default = default_formats(self.tokenizer, encoder_decoder, data.source_language, data.target_language)
        return Formats(data.source_format or default.source, data.target_format or default.target)

    @property
    def limits(self) -> Limits:
        data = self.config.data
        window = self.model_config.context_length
        if window is None:
            return Limits(source=data.max_source_length, target=data.max_target_length)
        method = self.method()
        room = window - method.positions
        # A window each: a prompt is in the encoder's, the positions before a text in the decoder's.
        source, target = window - method.reserved, room + method.reserved
        if (min(source, target) if self.model_config.is_encoder_decoder else room) < 1:
            raise UserError(
                f"the virtual tokens of config.method={self.config.method} take all of this model's {window} positions "
                "and leave none for a text; lower their length"
            )
        if not self.model_config.is_encoder_decoder:
            return Limits(source=data.max_source_length, target=data.max_target_length, window=room)
        return Limits(source=min(data.max_source_length, source), target=min(data.max_target_length, target))

    def method(self) -> Method:
        texts = {name: self.config[name].get("text", "") for name in tuning.names(self.config)}
        words = {n: self.tokenizer(t, add_special_tokens=False)["input_ids"] for n, t in texts.items() if t}
        for name, ids in words.items():
            self.check_ids(Ragged(np.asarray(ids, np.int64), np.array([0, len(ids)])), lambda _: f"{name}.text")  # noqa: B023
        return tuning.build(self.config, self.model, words)

    @functools.cached_property
    def printer(self) -> Printer:
        """How decoding makes text of new tokens, and which of them end it."""
        target = tokens.frame(self.formats.target, "target", self.tokenizer)
        return Printer(self.tokenizer, target, self.model_config.eos_ids, self.config.data.keep_special_tokens)

    @property
    def more_ends(self) -> tuple[int, ...]:
        """The tokens that end a text beside those that the model's configuration names."""
        known = self.model_config.eos_ids
        return tuple(id for id in self.printer.ends if id not in known and 0 <= id < self.model_config.vocab_size)

    def check_ids(self, ids: Ragged, place: Callable[[int], str]) -> None:
        """Refuses ids that the embedding does not have; `place` names a sequence by its number."""
        tokens.check_ids(ids, self.model_config.vocab_size, self._word, place)

    def _word(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(token) if token >= 0 else "")


def open_session(config: Config, devices: Sequence[Any] | None = None) -> Session:
    """Loads the model that a configuration names onto `devices` (None: all).

    Raises:
      UserError: it cannot be had or does not fit.
    """
    check_ranges(config)
    if config.model.dtype not in ("float32", "bfloat16"):
        raise UserError(f'model.dtype is "{config.model.dtype}"; it must be float32 or bfloat16')
    check_attention(config)
    audit.strict(config.data.strict)
    devices = jax.devices() if devices is None else devices

    @functools.cache
    def placed(model_config: ModelConfig) -> MeshSharder | None:
        sharder = place(config.mesh, model_config, devices)
        return None if len(devices) == 1 else sharder

    def sharding(model_config: ModelConfig) -> Any:
        sharder = placed(model_config)
        return None if sharder is None else sharder.base

    pretrained = load(config.model.source, config.model.dtype, sharding, config.model.quantisation)
    model_config = _of_language(_within(pretrained.model_config, config.model.source), pretrained, config)
    pretrained = dataclasses.replace(pretrained, model_config=model_config)
    sharder = placed(pretrained.model_config)
    # A CPU works in float32 wherever it does not multiply matrices.
    activations = "float32" if jax.default_backend() == "cpu" else config.model.dtype
    model = build(pretrained.model_config, config.model.rematerialise, activations, sharder, _fused(config))
    return Session(config, pretrained, model, {"params": pretrained.params}, sharder)


def _within(model_config: ModelConfig, name: str) -> ModelConfig:
    """Returns a spec whose ids the embedding has.

    Nothing that is computed depends on what fills the places without a text, so that any id will do there.

    Raises:
      UserError: the token that a decoder begins with is outside.
    """
    rows, start = model_config.vocab_size, model_config.decoder_start
    if not 0 <= start < rows:
        raise UserError(
            f"the config.json of {name} has decoder_start_token_id={start}, but the embedding has {rows} rows "
            f"(ids 0 to {rows - 1}); correct it"
        )
    return model_config if 0 <= model_config.pad_id < rows else dataclasses.replace(model_config, pad_id=0)


def _of_language(model_config: ModelConfig, pretrained: Pretrained, config: Config) -> ModelConfig:
    """Returns a spec whose decoder begins with the target language's token, where its tokenizer wants that."""
    data = config.data
    if not (data.target_language and model_config.is_encoder_decoder):
        return model_config
    code = languages.sides(pretrained.tokenizer, data.source_language, data.target_language).target
    start = languages.begin(pretrained.tokenizer, code).start
    return model_config if start is None else dataclasses.replace(model_config, **{"decoder_start_id": start})


def _fused(config: Config) -> bool:
    wanted, backend = config.model.attention == "fused", jax.default_backend()
    if wanted and backend != "tpu":
        print(f"model.attention=fused is a kernel for TPUs; on this {backend} attention is plain.", file=sys.stderr)
    elif wanted and (plain := [m.name for m in tuning.declared(config.method).values() if not m.fused]):
        print(f"model.attention=fused has no kernel for method={plain[0]}: attention is plain.", file=sys.stderr)
    return wanted and backend == "tpu"


def check_attention(config: Config) -> None:
    """Raises UserError unless `model.attention` is a known kind of attention."""
    if config.model.attention not in ("plain", "fused"):
        raise UserError(f'model.attention is "{config.model.attention}"; it must be plain or fused')


def model_options(config: Config) -> dict[str, Any]:
    """Returns the options on which the frozen model depends."""
    return {**config.model.to_dict(), "mesh": config.mesh.to_dict(), "language": config.data.target_language}


def check_data(config: Config, *splits: str) -> None:
    """Checks what a run reads and how it is scored, without loading a model or asking the hub.

    Raises:
      UserError: an unknown task, split or metric, or files that are missing.
    """
    tasks.metrics_of(config.data.task, config.evaluation.metrics)
    for split in splits:
        tasks.check(config.data.task, split, config.data.path)


def columns(config: Config) -> tasks.Columns:
    return tasks.Columns(config.data.source_column, config.data.target_column)


def text_pairs(config: Config, split: str) -> list[Record]:
    """Returns a split with one record a text, of the categories wanted; of the training split `data.limit` records.

    Process 0 says once what was read.
    """
    data = config.data
    records = _wanted(config, split, _read(config, split))
    if split != "train" or not data.limit:
        return records
    return records[: data.limit] if data.limit_seed < 0 else subsets.random_subset(records, data.limit, data.limit_seed)


def text_inputs(config: Config, split: str) -> list[Record]:
    """Returns a split with one record an input, with all its references, of the categories wanted.

    Process 0 says once what was read.
    """
    return _wanted(config, split, group(_read(config, split)))


_said: set[str] = set()


def _read(config: Config, split: str) -> list[Record]:
    reading = tasks.read(config.data.task, split, config.data.path, columns(config))
    for line in (reading.sentence(), *(f"warning: {text}" for text in reading.notes.warnings)):
        if line not in _said and distributed.is_primary() and sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # a stream that is closed
                print(line, file=sys.stderr)
        _said.add(line)
    return reading.records


def _wanted(config: Config, split: str, records: list[Record]) -> list[Record]:
    option = "test_categories" if split == "test" else "categories"
    return subsets.of_categories(records, config.data[option], f"data.{option}")


def tokenised(session: Session, records: Sequence[Record]) -> TokenisedSet:
    """Returns the records' token ids, from the user's cache directory where they were made before: then no tokenizer is
    loaded, which is slow.
    """
    data, limits = session.config.data, session.limits
    depends = TokenIds(
        version=tokens.VERSION,
        tokenizer=session.pretrained.tokenizer_key,
        source_format=data.source_format,
        target_format=data.target_format,
        encoder_decoder=session.model_config.is_encoder_decoder,
        limits=dataclasses.astuple(limits),
        sources=[record.source for record in records],
        targets=[record.target for record in records],
        languages=(data.source_language, data.target_language),
    )
    found = tokens.kept(
        cache_path("tokens"), depends, lambda: tokens.tokenise(records, session.tokenizer, session.formats, limits)
    )
    for side, ids in (("source", found.sources), ("target", found.targets)):
        session.check_ids(ids, lambda i, side=side: f"the {side} of record {records[i].id}")
    return found


def audited(session: Session, records: Sequence[Record], data: TokenisedSet, where: str) -> audit.Measured:
    """Says what the tokenizer does to the records that are trained on; returns what it counted.

    The counts are kept beside the token ids, so that no tokenizer is loaded where they were made before.

    Args:
      data: the records' ids.
      where: what the records are, for the sentences.

    Raises:
      UserError: there is something that `data.strict` makes an error.
    """
    options, model_config, limit = session.config.data, session.model_config, session.limits.source
    depends = DataAudit(
        version=audit.VERSION,
        token_version=tokens.VERSION,
        tokenizer=session.pretrained.tokenizer_key,
        source_format=options.source_format,
        target_format=options.target_format,
        encoder_decoder=model_config.is_encoder_decoder,
        limit=limit,
        ends=model_config.eos_ids,
        keep_special_tokens=options.keep_special_tokens,
        names=[record.id for record in records],
        sources=[record.source for record in records],
        targets=[record.target for record in records],
        languages=(options.source_language, options.target_language),
    )

    def measure() -> audit.Measured:
        source = tokens.frame(session.formats.source, "source", session.tokenizer)
        return audit.measure(records, data, session.printer, source, session.formats.target)

    measured = audit.kept(cache_path("tokens"), depends, measure)
    wanted = audit.strict(options.strict)
    found = audit.findings(measured, data, limit, session.config.decoding.max_length, wanted)
    audit.say(where, found, wanted, quiet=not distributed.is_primary())
    return {**measured, "said": list(found.values())}
