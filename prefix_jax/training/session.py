"""The frozen model and tokenizer of a configuration, and the method and text formats that follow from them."""

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
from prefix_jax.data import audit, chat_template, languages, templates, tokens
from prefix_jax.data.batching import Layout
from prefix_jax.data.chat_template import ChatTemplate
from prefix_jax.data.in_memory import InMemory
from prefix_jax.data.texts import Printer
from prefix_jax.data.tokens import Formats, Limits, Ragged, default_formats, plain_formats
from prefix_jax.errors import UserError
from prefix_jax.models import Model, build, from_hf
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained import Pretrained, load, open_checkpoint
from prefix_jax.options import Config
from prefix_jax.parallel.mesh import MeshSharder, place
from prefix_jax.tuning import Method


@dataclass(frozen=True)
class Session:
    """The frozen model of a configuration and how text becomes its tokens. `base` is what `model.apply` takes first.

    `sharder` says where arrays lie on the devices; None where there is only one. `held` are records in memory, in place
    of those that the configuration names.
    """

    config: Config
    pretrained: Pretrained
    model: Model
    base: dict[str, Any]
    sharder: MeshSharder | None = None
    held: InMemory | None = None

    def __repr__(self) -> str:
        return f"Session(model={self.config.model.source!r}, method={self.config.method!r})"

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
        if tasks.find(data.task).chat:
            if data.source_format or data.target_format:
                raise UserError(
                    "data.source_format and data.target_format are not for conversations, whose form is the chat "
                    "template's; leave them out, or set --config.data.chat_template"
                )
            return Formats("{source}", "{target}")
        source, target = templates.parse(data.source_format, "source"), templates.parse(data.target_format, "target")
        if source.format and source.whole and target.format and target.whole:
            return Formats(source.format, target.format)
        encoder_decoder = self.model_config.is_encoder_decoder
        if tasks.find(data.task).plain_text:
            default = plain_formats(self.tokenizer, encoder_decoder)
        else:
            default = default_formats(self.tokenizer, encoder_decoder, data.source_language, data.target_language)
        return Formats(source.within(default.source, "source"), target.within(default.target, "target"))

    @functools.cached_property
    def chat(self) -> ChatTemplate:
        """The chat template, which makes tokens of conversations.

        Raises:
          UserError: the tokenizer has none, and none is named.
        """
        return ChatTemplate(self.tokenizer, chat_template.read(self.config.data.chat_template))

    @functools.cached_property
    def limits(self) -> Limits:
        """How many tokens of a source and a target fit beside the method's virtual tokens."""
        data = self.config.data
        window = self.model_config.context_length
        if window is None:
            return Limits(source=data.max_source_length, target=data.max_target_length)
        method = self.method
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

    @property
    def layout(self) -> Layout:
        """How a record's tokens lie in a row."""
        return Layout.of(self.model_config)

    @functools.cached_property
    def method(self) -> Method:
        """The tuning method, built for this model.

        Raises:
          UserError: an option of its section is invalid, or its text has ids that the embedding lacks.
        """
        texts = {name: self.config[name].get("text", "") for name in tuning.names(self.config)}
        words = {n: self.tokenizer(t, add_special_tokens=False)["input_ids"] for n, t in texts.items() if t}
        for name, ids in words.items():
            self.check_ids(Ragged(np.asarray(ids, np.int64), np.array([0, len(ids)])), lambda _: f"{name}.text")  # noqa: B023
        return tuning.build(self.config, self.model, words)

    @functools.cached_property
    def printer(self) -> Printer:
        """How decoding makes text of new tokens, and which of them end it."""
        if tasks.find(self.config.data.task).chat:
            target = tokens.Frame((), tuple(tokens.encoded_texts(self.tokenizer, [self.chat.ending], "source")[0]))
        else:
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
    _check(config)
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
    model = build(pretrained.model_config, config.model.rematerialise, activations, sharder, _kernel(config, sharder))
    return Session(config, pretrained, model, {"params": pretrained.params}, sharder)


def open_without_weights(config: Config) -> Session:
    """Returns a session that has a model's tokenizer and shapes but no weights: enough to turn text into tokens.

    Raises:
      UserError: the model cannot be had, or an option is out of its range.
    """
    _check(config)
    source = config.model.source
    checkpoint = open_checkpoint(source)
    shapes = from_hf(checkpoint.config, f"the config.json of {checkpoint.name}")
    pretrained = Pretrained(shapes, {}, {}, checkpoint.config, checkpoint.tokenizer)
    model_config = _of_language(_within(shapes, source), pretrained, config)
    pretrained = dataclasses.replace(pretrained, model_config=model_config)
    return Session(config, pretrained, build(model_config), {"params": {}})


def _check(config: Config) -> None:
    check_ranges(config)
    if config.model.dtype not in ("float32", "bfloat16"):
        raise UserError(f'model.dtype is "{config.model.dtype}"; it must be float32 or bfloat16')
    check_attention(config)
    audit.strict(config.data.strict)


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


def _kernel(config: Config, sharder: MeshSharder | None) -> str | None:
    """Returns the attention kernel of this backend, if one is wanted and the method has it."""
    asked, backend = config.model.attention, jax.default_backend()
    kernel = "pallas" if backend == "tpu" else "cudnn" if has_cudnn_attention(jax.devices()[0]) else None
    if asked == "auto":  # what was measured: one GPU
        return kernel if kernel == "cudnn" and sharder is None else None
    wanted = asked == "fused"
    if wanted and kernel is None:
        print(
            "model.attention=fused is a kernel for TPUs and NVIDIA GPUs from Ampere on; on this "
            f"{backend} attention is plain.",
            file=sys.stderr,
        )
    elif wanted and (plain := [m.name for m in tuning.declared(config.method).values() if not m.fused]):
        print(f"model.attention=fused has no kernel for method={plain[0]}: attention is plain.", file=sys.stderr)
    return kernel if wanted else None


def has_cudnn_attention(device: Any) -> bool:
    """Returns whether cuDNN has fused attention for a device: NVIDIA's GPUs of compute capability 8.0 or more."""
    capability = str(getattr(device, "compute_capability", ""))
    return device.platform == "gpu" and capability.replace(".", "").isdigit() and float(capability) >= 8


def check_attention(config: Config) -> None:
    """Raises UserError unless `model.attention` is a known kind of attention."""
    if config.model.attention not in ("auto", "plain", "fused"):
        raise UserError(f'model.attention is "{config.model.attention}"; it must be auto, plain or fused')


def model_options(config: Config) -> dict[str, Any]:
    """Returns the options on which the frozen model depends."""
    return {**config.model.to_dict(), "mesh": config.mesh.to_dict(), "language": config.data.target_language}
