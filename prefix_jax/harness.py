"""EleutherAI's evaluation harness on our models, in Python; the command is `prefix-jax lm_eval`.

`import prefix_jax.harness` registers the model for
`lm_eval.simple_evaluate(model="prefix_jax", model_args={"tuned": DIR}, tasks=[...])`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from prefix_jax import api, decoding
from prefix_jax.data.windows import Window
from prefix_jax.decoding import choices
from prefix_jax.errors import UserError
from prefix_jax.evaluation import forgetting
from prefix_jax.tuning import TunedState

# Context length of a model that has none, as the harness assumes for transformers' models.
UNLIMITED = 2048
# Contexts in a batch.
BATCH = 16
T = TypeVar("T")
Tokens = list[int]


@register_model("prefix_jax")
class PrefixLM(TemplateLM):
    """A frozen model, with or without what was tuned for it, as the harness asks it.

    Texts become tokens and are truncated as by the harness's own `hf` model. Continuations of one context are scored
    with its key-value cache computed once.
    """

    def __init__(
        self,
        tuned: Any = None,
        pretrained: str | None = None,
        batch_size: int | str | None = BATCH,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ):
        """Args:
          tuned: a run directory or its `tuned/` folder, or an object that `prefix_jax.load` returns.
          pretrained: in place of `tuned`, a model without anything tuned, as `prefix_jax.load_model` takes it.
          batch_size: contexts in a batch; "auto" is 16.
          max_length: tokens of context and continuation; None: those of the model beside the virtual tokens.
          max_gen_toks: new tokens, for tasks that do not say how many.
          add_bos_token: whether special tokens are put around a context; None: as the tokenizer does.
          max_batch_size: not used; the harness passes it.
          device: not used; `JAX_PLATFORMS` chooses the device.
          **options: of the run, by dotted name, such as `model.dtype="bfloat16"`.

        Raises:
          UserError: neither or both of `tuned` and `pretrained` are given, or they cannot be loaded.
        """
        super().__init__()
        found = _opened(tuned, pretrained, options)
        self._session = found._session
        self._kept = found._kept if isinstance(found, api.Tuned) else TunedState()
        self.tokenizer = self._session.tokenizer
        self.backend = "seq2seq" if self._session.model_config.is_encoder_decoder else "causal"
        self.batch_size = int(batch_size) if batch_size is not None and str(batch_size).isdigit() else BATCH
        self.max_length = max_length or self._room()
        self.max_gen_toks, self.add_bos_token = int(max_gen_toks), add_bos_token

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        return str(self._session.config.model.source).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> Tokens:
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        first = self.tokenizer.bos_token
        if add_special_tokens is None and first and string.startswith(first):
            special = False
        return self.tokenizer.encode(string, **({} if special is None else {"add_special_tokens": special}))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], Tokens, Tokens]], **unused: Any
    ) -> list[tuple[float, bool]]:
        places: dict[tuple[int, ...], list[int]] = defaultdict(list)
        continuations = []
        for place, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise UserError(f"a continuation has {len(continuation)} tokens, over max_length={self.max_length}")
            room = self.max_length + (1 - len(continuation) if self.backend == "causal" else 0)
            places[tuple(context[-room:])].append(place)
            continuations.append(continuation)
        contexts = list(places)

        def shape(context: tuple[int, ...]) -> tuple[int, int]:
            own = places[context]
            return _rounded(len(own)), _rounded(max(len(continuations[i]) for i in own))

        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for group in _alike(contexts, shape):
            prompts = [[*self._reserved, *context] for context in group]
            own = [[continuations[i] for i in places[context]] for context in group]
            scored = choices.score_with_greedy(
                self._session.model, self._variables, self._kept.prefix, prompts, own, self.batch_size
            )
            for context, (sums, greedy) in zip(group, scored, strict=True):
                for place, total, likeliest in zip(places[context], sums, greedy, strict=True):
                    found[place] = float(total), bool(likeliest)
        for (texts, _, _), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", list(texts), answer)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        cut: list[Window] = []
        owners: list[int] = []
        for place, request in enumerate(requests):
            ids = self.tok_encode(_arguments(request)[0])
            pairs = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            cut += [Window(*make_disjoint_window(pair)) for pair in pairs]
            owners += [place] * (len(cut) - len(owners))
        totals = [0.0] * len(requests)
        halves = 2 if self.backend == "seq2seq" else 1
        width = lambda i: halves * min(_rounded(len(cut[i].given) + len(cut[i].predicted)), self.max_length)
        for group in _alike(range(len(cut)), width):
            own = [cut[i] for i in group]
            losses = forgetting.losses(self._session.model, self._variables, self._kept, own, width(group[0]))
            for i, loss in zip(group, losses, strict=True):
                totals[owners[i]] -= float(loss)
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        found = [""] * len(requests)
        for group in _alike(range(len(requests)), lambda i: repr(_arguments(requests[i])[1])):
            asked: dict[str, Any] = dict(normalize_gen_kwargs(_arguments(requests[group[0]])[1], self.max_gen_toks))
            options = _generation(asked, self._session.more_ends)
            contexts = [
                self.tok_encode(_arguments(requests[i])[0])[-self._input_room(options.max_length) :] for i in group
            ]
            ids = decoding.decode_all(
                self._session.model,
                self._variables,
                self._kept.prefix,
                [[*self._reserved, *one] for one in contexts],
                options,
                self.batch_size,
            )
            for i, text in zip(group, self.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                found[i] = _until(text, asked["until"])
                self.cache_hook.add_partial("generate_until", requests[i].args, found[i])
        return found

    @property
    def _variables(self) -> dict[str, Any]:
        return self._kept.onto(self._session.base)

    @property
    def _reserved(self) -> Tokens:
        return [self._session.model_config.pad_id] * self._kept.reserved

    def _room(self) -> int:
        """Returns the tokens that fit beside the virtual tokens."""
        context, prefix = self._session.model_config.context_length, self._kept.prefix
        if context is None:
            return UNLIMITED
        return context - self._kept.reserved - (0 if prefix is None else int(prefix.position_offset))

    def _input_room(self, new: int) -> int:
        room = self.max_length - (new if self.backend == "causal" else 0)
        if room < 1:
            raise UserError(f"max_gen_toks={new} leaves no room for an input within max_length={self.max_length}")
        return room


def _opened(tuned: Any, pretrained: str | None, options: Mapping[str, Any]) -> api.Tuned | api.LanguageModel:
    if (tuned is None) == (pretrained is None):
        raise UserError("give one of tuned=DIR and pretrained=MODEL in --model_args")
    if pretrained is not None:
        return api.load_model(pretrained, options=options)
    return api.load(tuned, options=options) if isinstance(tuned, str) else tuned


def _arguments(request: Instance) -> tuple[Any, ...]:
    """Returns what a request asks: a context and its continuation, a text, or a context and generation options."""
    return tuple(request.args)


def _generation(asked: Mapping[str, Any], more_ends: tuple[int, ...]) -> decoding.GenerationConfig:
    """Returns decoding options for the harness's, which have transformers' names."""
    known = {"do_sample", "until", "max_gen_toks", "temperature", "top_k", "top_p", "num_beams"}
    if unknown := sorted(set(asked) - known):
        raise UserError(f"the generation option {unknown[0]} is not known; known are {', '.join(sorted(known))}")
    length, beams = int(asked["max_gen_toks"]), int(asked.get("num_beams", 1))
    if not asked.get("do_sample") or not asked.get("temperature", 1.0):
        how: dict[str, Any] = {"strategy": "beam" if beams > 1 else "greedy", "beams": beams}
    else:
        how = {"strategy": "sample", "temperature": float(asked.get("temperature", 1.0))}
        how |= {"top_k": int(asked.get("top_k", 0)), "top_p": float(asked.get("top_p", 1.0))}
    return decoding.GenerationConfig(max_length=length, more_ends=more_ends, **how)


def _until(text: str, stops: Iterable[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    return text


def _alike(items: Iterable[T], key: Any) -> list[list[T]]:
    """Returns the items grouped by a key, each group in order."""
    groups: dict[Any, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _rounded(count: int) -> int:
    """Returns the next power of two, which limits the number of compiled programs."""
    return 2 ** math.ceil(math.log2(max(count, 1)))
