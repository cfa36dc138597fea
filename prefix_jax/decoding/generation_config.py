"""Decoding options: the configuration's section `decoding`, checked and frozen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models import ModelConfig

STRATEGIES = ("greedy", "beam", "sample")


class OfModel(NamedTuple):
    """Options that come with a model, named as in `GenerationConfig`."""

    forced_bos: int | None = None
    forced_eos: tuple[int, ...] = ()
    banned_sequences: tuple[tuple[int, ...], ...] = ()
    banned_tokens: tuple[int, ...] = ()


def of_model(config: Mapping[str, Any], model_config: ModelConfig) -> OfModel:
    """Returns what a model's `generation_config.json` (or `config.json`) says of forced and banned tokens.

    Args:
      config: `config.json`, updated by `generation_config.json`.

    Raises:
      UserError: a token is outside the vocabulary.
    """
    ends = [[id] for id in model_config.eos_ids]  # never bad words
    words = [tuple(word) for word in config.get("bad_words_ids") or () if word not in ends]
    first = config.get("forced_bos_token_id") if model_config.is_encoder_decoder else None
    last = config.get("forced_eos_token_id")
    found = OfModel(
        forced_bos=first[0] if isinstance(first, list) else first,
        forced_eos=tuple(last) if isinstance(last, list) else () if last is None else (last,),
        banned_sequences=tuple(word for word in words if len(word) > 1),
        banned_tokens=(*(config.get("suppress_tokens") or ()), *(word[0] for word in words if len(word) == 1)),
    )
    named = {
        "forced_bos_token_id": () if found.forced_bos is None else (found.forced_bos,),
        "forced_eos_token_id": found.forced_eos,
        "bad_words_ids or suppress_tokens": (*found.banned_tokens, *(id for word in words for id in word)),
    }
    for name, ids in named.items():
        if wrong := [id for id in ids if not 0 <= id < model_config.vocab_size]:
            raise UserError(
                f"the model's generation_config.json (or config.json) has {wrong[0]} among its {name}, but token ids "
                f"go from 0 to {model_config.vocab_size - 1}; correct it"
            )
    return found


class Limits(NamedTuple):
    """Numbers of a text that need not be known when its program is compiled: the least and most new tokens, and the
    power of the length by which beam search divides scores. Numbers of Python, or scalars.
    """

    least: Any
    most: Any
    length_penalty: Any


@dataclass(frozen=True)
class GenerationConfig:
    """Decoding options, with the names and meanings of `transformers`' generation options where they exist.

    `max_length` is its `max_new_tokens` (including the end token), `min_length` its `min_new_tokens` (tokens before the
    end token is allowed), `no_repeat_ngram` its `no_repeat_ngram_size` (including a decoder-only model's prompt), and
    `banned_tokens` its `suppress_tokens`. Beam search of width 1 is greedy. `top_k=0` and `top_p=1` disable truncation.
    `more_ends` are end tokens in addition to those in the model's configuration. `forced_bos` is the first token of
    every text, one of `forced_eos` the last of a text that reaches `max_length`, and no text has a sequence of
    `banned_sequences`: transformers' `forced_bos_token_id`, `forced_eos_token_id` and `bad_words_ids`.

    Raises:
      UserError: an option is out of its range.
    """

    strategy: str = "beam"
    beams: int = 5
    length_penalty: float = 1.0
    max_length: int = 100
    min_length: int = 0
    no_repeat_ngram: int = 0
    banned_tokens: tuple[int, ...] = ()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    more_ends: tuple[int, ...] = ()
    forced_bos: int | None = None
    forced_eos: tuple[int, ...] = ()
    banned_sequences: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def from_config(
        cls,
        section: Any,
        more_ends: tuple[int, ...] = (),
        model: OfModel = OfModel(),  # noqa: B008
    ) -> "GenerationConfig":
        """Returns the options in a configuration's section `decoding`, and those that a model brings."""
        elsewhere = {"more_ends", *OfModel._fields} - {"banned_tokens"}
        values = {field.name: section[field.name] for field in fields(cls) if field.name not in elsewhere}
        banned = dict.fromkeys((*_token_ids(values["banned_tokens"]), *model.banned_tokens))
        return cls(**{**values, **model._asdict(), "banned_tokens": tuple(banned), "more_ends": more_ends})

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(
                f'decoding.strategy "{self.strategy}" is not known{did_you_mean(self.strategy, STRATEGIES)}'
            )
        _at_least("beams", self.beams, 1)
        _at_least("max_length", self.max_length, 1)
        _at_least("min_length", self.min_length, 0)
        _at_least("no_repeat_ngram", self.no_repeat_ngram, 0)
        _at_least("top_k", self.top_k, 0)
        _at_least("seed", self.seed, 0)
        if self.min_length > self.max_length:
            raise UserError(
                f"decoding.min_length={self.min_length} exceeds decoding.max_length={self.max_length}; lower the first "
                "or raise the second"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(
                f"decoding.temperature={self.temperature} must be above 0; for the most likely token, set "
                "decoding.strategy=greedy"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"decoding.top_p={self.top_p} must be above 0 and at most 1; 1 disables it")
        if not math.isfinite(self.length_penalty):
            raise UserError(
                f"decoding.length_penalty={self.length_penalty} must be a finite number; 1 is the usual one"
            )

    @property
    def width(self) -> int:
        """Number of sequences per input."""
        return self.beams if self.strategy == "beam" else 1

    @property
    def limits(self) -> "Limits":
        return Limits(self.min_length, self.max_length, self.length_penalty)

    def program(self) -> "GenerationConfig":
        """Returns the options that affect the compiled program, with the others at their defaults."""
        unused = GenerationConfig()
        kept = replace(self, seed=0)
        if self.width > 1:
            return replace(kept, temperature=unused.temperature, top_k=unused.top_k, top_p=unused.top_p)
        kept = replace(kept, beams=1)
        if self.strategy == "sample":
            return kept
        return replace(kept, strategy="greedy", temperature=unused.temperature, top_k=unused.top_k, top_p=unused.top_p)


def _token_ids(given: Any) -> tuple[int, ...]:
    try:
        return tuple(int(token) for token in given)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"decoding.banned_tokens is {given!r}; it must be token ids, as in --config.decoding.banned_tokens='(3, 7)'"
        ) from None


def check_for(options: GenerationConfig, model_config: ModelConfig) -> None:
    """Raises UserError unless the options suit the model's vocabulary."""
    wrong = [token for token in options.banned_tokens if not 0 <= token < model_config.vocab_size]
    if wrong:
        raise UserError(
            f"decoding.banned_tokens has {wrong[0]}, but this model's token ids go from 0 to "
            f"{model_config.vocab_size - 1}; "
            "remove it"
        )
    forced = (*options.forced_eos, *(() if options.forced_bos is None else (options.forced_bos,)))
    if both := set(forced) & set(options.banned_tokens):
        raise UserError(
            f"the token {min(both)} is both forced and banned (decoding.banned_tokens, or the model's "
            "generation_config.json); remove one of them"
        )
    if candidates(options, model_config) > model_config.vocab_size:
        raise UserError(
            f"decoding.beams={options.beams} is too many for this model's {model_config.vocab_size} tokens; lower it"
        )


def end_ids(options: GenerationConfig, model_config: ModelConfig) -> tuple[int, ...]:
    """Returns all end tokens."""
    return (*model_config.eos_ids, *(id for id in options.more_ends if id not in model_config.eos_ids))


def candidates(options: GenerationConfig, model_config: ModelConfig) -> int:
    """Returns the number of candidates per step: enough that one per beam is not an end token."""
    return (1 + len(end_ids(options, model_config))) * options.width


def check_ids(token_lists: Sequence[Sequence[int]], model_config: ModelConfig) -> None:
    """Raises UserError if an input has an id outside the embedding."""
    for row, ids in enumerate(token_lists):
        wrong = next((id for id in ids if not 0 <= id < model_config.vocab_size), None)
        if wrong is not None:
            raise UserError(
                f"input {row + 1} has the token id {wrong}, but the model's embedding has "
                f"{model_config.vocab_size} rows "
                f"(ids 0 to {model_config.vocab_size - 1}); use the model's own tokenizer"
            )


def check_window(longest: int, offset: int, options: GenerationConfig, model_config: ModelConfig) -> None:
    """Raises UserError if input, prefix and output together exceed the model's context length."""
    if model_config.context_length is None:
        return
    if model_config.is_encoder_decoder:
        if longest > model_config.context_length or options.max_length + offset > model_config.context_length:
            raise UserError(
                f"an input of {longest} tokens, or the prefix's position offset of {offset} and decoding.max_length="
                f"{options.max_length}, exceed this model's {model_config.context_length} positions; shorten them"
            )
        return
    needed = longest + offset + options.max_length
    if needed > model_config.context_length:
        raise UserError(
            f"an input of {longest} tokens, the prefix's position offset of {offset} and decoding.max_length="
            f"{options.max_length} make {needed} positions, but this model has {model_config.context_length}; "
            "shorten the input or set "
            f"decoding.max_length to at most {max(model_config.context_length - longest - offset, 0)}"
        )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"decoding.{name}={value} must be at least {least}")
