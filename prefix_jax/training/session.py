"""From a configuration to what training, evaluation and generation share: the frozen model, its data and its method."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from prefix_jax import tuning
from prefix_jax.config import Config, check_ranges
from prefix_jax.data import subsets, tasks, tokens
from prefix_jax.data.records import Record, group
from prefix_jax.data.tokens import Formats, Limits, TokenisedSet, default_formats
from prefix_jax.dependencies import TokenIds
from prefix_jax.errors import UserError
from prefix_jax.models import Model, build
from prefix_jax.models.pretrained import Pretrained, cache_path, load
from prefix_jax.models.specs import Spec
from prefix_jax.parallel import hosts
from prefix_jax.parallel.mesh import Placement, place
from prefix_jax.tuning import Method


@dataclass(frozen=True)
class Session:
    """The frozen model of a configuration and how text becomes its tokens. `base` is what `model.apply` takes first.

    `placement` says where arrays lie on the devices; None where there is only one.
    """

    config: Config
    pretrained: Pretrained
    model: Model
    base: dict[str, Any]
    placement: Placement | None = None

    def of(self, config: Config) -> "Session":
        """Returns the session of another configuration with the same model."""
        return dataclasses.replace(self, config=config)

    @property
    def spec(self) -> Spec:
        return self.pretrained.spec

    @property
    def tokenizer(self) -> Any:
        return self.pretrained.tokenizer

    @property
    def formats(self) -> Formats:
        default = default_formats(self.tokenizer, self.spec.encoder_layers > 0)
        data = self.config.data
        return Formats(data.source_format or default.source, data.target_format or default.target)

    @property
    def limits(self) -> Limits:
        data = self.config.data
        window = self.spec.window
        room = 0 if window is None else window - self.method().positions
        if window is None or not self.spec.encoder_layers:
            return Limits(source=data.max_source_length, target=data.max_target_length, window=room)
        # A window each: a prompt is in the encoder's, the positions before a text in the decoder's.
        reserved = self.method().reserved
        source, target = window - reserved, room + reserved
        return Limits(source=min(data.max_source_length, source), target=min(data.max_target_length, target))

    def method(self) -> Method:
        texts = {name: self.config[name].get("text", "") for name in tuning.names(self.config)}
        words = {n: self.tokenizer(t, add_special_tokens=False)["input_ids"] for n, t in texts.items() if t}
        return tuning.build(self.config, self.model, words)


def open_session(config: Config, devices: Sequence[Any] | None = None) -> Session:
    """Loads the model that a configuration names onto `devices` (None: all).

    Raises:
      UserError: it cannot be had or does not fit.
    """
    check_ranges(config)
    if config.model.dtype not in ("float32", "bfloat16"):
        raise UserError(f'model.dtype is "{config.model.dtype}"; it must be float32 or bfloat16')
    check_attention(config)
    devices = jax.devices() if devices is None else devices

    @functools.cache
    def placed(spec: Spec) -> Placement | None:
        placement = place(config.mesh, spec, devices)
        return None if len(devices) == 1 else placement

    def sharding(spec: Spec) -> Any:
        placement = placed(spec)
        return None if placement is None else placement.base

    pretrained = load(config.model.source, config.model.dtype, sharding, config.model.quantisation)
    placement = placed(pretrained.spec)
    # A CPU works in float32 wherever it does not multiply matrices.
    activations = "float32" if jax.default_backend() == "cpu" else config.model.dtype
    model = build(pretrained.spec, config.model.rematerialise, activations, placement, _fused(config))
    return Session(config, pretrained, model, {"params": pretrained.params}, placement)


def _fused(config: Config) -> bool:
    wanted, backend = config.model.attention == "fused", jax.default_backend()
    if wanted and backend != "tpu":
        print(f"model.attention=fused is a kernel for TPUs; on this {backend} attention is plain.", file=sys.stderr)
    elif wanted and "infix" in tuning.names(config):
        print("model.attention=fused has no kernel for an infix: attention is plain.", file=sys.stderr)
    return wanted and backend == "tpu"


def check_attention(config: Config) -> None:
    """Raises UserError where `model.attention` is no kind of attention."""
    if config.model.attention not in ("plain", "fused"):
        raise UserError(f'model.attention is "{config.model.attention}"; it must be plain or fused')


def model_options(config: Config) -> dict[str, Any]:
    """Returns the options on which the frozen model depends."""
    return {**config.model.to_dict(), "mesh": config.mesh.to_dict()}


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
    return records[: data.limit] if data.limit_seed < 0 else subsets.drawn(records, data.limit, data.limit_seed)


def text_inputs(config: Config, split: str) -> list[Record]:
    """Returns a split with one record an input, with all its references, of the categories wanted.

    Process 0 says once what was read.
    """
    return _wanted(config, split, group(_read(config, split)))


_said: set[str] = set()


def _read(config: Config, split: str) -> list[Record]:
    reading = tasks.read(config.data.task, split, config.data.path, columns(config))
    for line in (reading.sentence(), *(f"warning: {text}" for text in reading.notes.warnings)):
        if line not in _said and hosts.leader() and sys.stderr is not None:
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
        encoder_decoder=session.spec.encoder_layers > 0,
        limits=dataclasses.astuple(limits),
        sources=[record.source for record in records],
        targets=[record.target for record in records],
    )
    return tokens.kept(
        cache_path("tokens"), depends, lambda: tokens.tokenise(records, session.tokenizer, session.formats, limits)
    )
