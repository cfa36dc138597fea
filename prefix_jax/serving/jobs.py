"""Requests of a body as jobs of the engine: their prompts in token ids, and their events as text."""

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from prefix_jax.errors import UserError
from prefix_jax.inference.generation import source_ids
from prefix_jax.serving import conversation
from prefix_jax.serving.engine import End, Engine, Request, Sampling, Scores, Token
from prefix_jax.serving.protocol import ChatCompletion, Completion, Generation, Refused
from prefix_jax.serving.text import TextStream
from prefix_jax.training.session import Session

# OpenAI's number of new tokens where a completion names none.
DEFAULT_TOKENS = 16


class Prompt(NamedTuple):
    """A prompt: its token ids, of which the first are `reserved`, its text as `echo` shows it, and whether the answer's
    ends are stripped.
    """

    ids: list[int]
    text: str
    strip: bool = False
    stops: tuple[str, ...] = ()
    reserved: int = 0

    def after(self, reserved: int, pad: int) -> "Prompt":
        """Returns the prompt with reserved places before it, for the virtual tokens of a tuned prompt."""
        return self._replace(ids=[pad] * reserved + self.ids, reserved=reserved)


class Piece(NamedTuple):
    """A piece of the answer number `index`: text, tokens with log-probabilities, the scores of the prompt, an end."""

    index: int
    text: str = ""
    tokens: tuple[Token, ...] = ()
    scores: Scores | None = None
    finish: str | None = None


def prompts_of(body: Completion, session: Session, own: Session | None) -> list[Prompt]:
    """Returns the prompts of a completion.

    Args:
      session: of the model.
      own: of the tuned prefix, which says how a source is read; None: the bare model.

    Raises:
      UserError: a text is empty, or an id outside the vocabulary.
    """
    given = body.prompt
    if isinstance(given, str):
        texts: Sequence[Any] = [given]
    elif given and isinstance(given[0], int):
        texts = [given]
    else:
        texts = given
    if not texts:
        raise Refused("prompt is empty; give it a text", param="prompt")
    return [_prompt(one, body, session, own) for one in texts]


def _prompt(given: Any, body: Completion, session: Session, own: Session | None) -> Prompt:
    tokenizer = session.tokenizer
    if not isinstance(given, str):
        return Prompt(given, tokenizer.decode(given) if body.echo else "")
    if own is None or body.raw or body.echo:
        return Prompt(list(tokenizer(given)["input_ids"]), given)
    ids = source_ids(own, [given], "", 0)[0].tolist()
    stops = (own.printer.tail,) if own.printer.tail and not own.printer.closed else ()
    return Prompt(ids, given, True, stops)


def prompt_of_chat(body: ChatCompletion, session: Session) -> Prompt:
    """Returns the prompt of a conversation, by the model's template.

    Raises:
      Refused: the model has no template, or it refuses the messages.
    """
    try:
        return Prompt(conversation.prompt(session, body.messages, body.tools), "")
    except UserError as error:
        raise Refused(str(error), param="messages") from None


def sampling_of(body: Generation, prompt: Prompt, engine: Engine, name: str | None, row: int) -> Sampling:
    """Returns how the answer number `row` to a prompt picks its tokens."""
    most, tops = body.max_tokens, None
    if isinstance(body, ChatCompletion):
        most = body.max_completion_tokens if body.max_completion_tokens is not None else most
        tops = (body.top_logprobs or 0) if body.logprobs else None
    elif isinstance(body, Completion):
        most, tops = DEFAULT_TOKENS if most is None else most, body.logprobs
    if most is None:
        config = engine.model.model_config
        room = engine.room(name)
        most = max(room - (0 if config.is_encoder_decoder else len(prompt.ids)), 1)
    return Sampling(
        max_tokens=most,
        min_tokens=body.min_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=max(body.top_k, 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=secrets.randbits(32) if body.seed is None else body.seed,
        row=row,
        tops=tops,
    )


def _put(loop: asyncio.AbstractEventLoop, events: asyncio.Queue, index: int, event: Token | Scores | End) -> None:
    """Passes an event from the engine's thread to the loop, unless that has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(events.put_nowait, (index, event))


@dataclasses.dataclass
class Job:
    """All answers of a body: a request of the engine for each prompt and each of `n`."""

    engine: Engine
    prompts: list[Prompt]
    requests: list[Request]
    streams: list[TextStream]
    events: asyncio.Queue

    @classmethod
    def submitted(
        cls,
        engine: Engine,
        body: Generation,
        name: str | None,
        prompts: list[Prompt],
        session: Session,
        again: Callable[[], Any],
    ) -> "Job":
        """Queues the requests of a body, all or none.

        Args:
          again: puts the prefix into the engine again, should another have taken its place.

        Raises:
          UserError: one does not fit; the others are cancelled.
        """
        again()
        reserved, pad = engine.reserved(name), engine.model.model_config.pad_id
        prompts = [prompt.after(reserved, pad) for prompt in prompts] if reserved else prompts
        loop, events = asyncio.get_running_loop(), asyncio.Queue()
        requests: list[Request] = []
        streams: list[TextStream] = []
        whole = isinstance(body, Completion) and bool(body.echo)
        for prompt in prompts:
            for row in range(body.n or 1):
                index = len(requests)
                emit: Any = partial(_put, loop, events, index)
                sampling = sampling_of(body, prompt, engine, name, row)
                scored = whole and sampling.tops is not None
                requests.append(Request(prompt.ids, name, sampling, emit, scored))
                decode = lambda ids: session.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                streams.append(TextStream(decode, [*body.stops, *prompt.stops], prompt.strip))
        for request in requests:
            engine.check(request.ids, request.name, request.sampling)
        job = cls(engine, prompts, requests, streams, events)
        try:
            for request in requests:
                engine.submit(request)
        except UserError:
            job.cancel()
            raise
        return job

    def cancel(self) -> None:
        """Ends what has not ended."""
        for request in self.requests:
            self.engine.cancel(request)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yields the answers piece by piece until all have ended; cancels them where the caller leaves.

        Raises:
          Refused: one ended with an error.
        """
        left = set(range(len(self.requests)))
        waiting: dict[int, list[Token]] = {index: [] for index in left}
        try:
            while left:
                index, event = await self.events.get()
                if index not in left:
                    continue
                stream = self.streams[index]
                if isinstance(event, Scores):
                    reserved = self.prompts[index * len(self.prompts) // len(self.requests)].reserved
                    yield Piece(index, scores=Scores(event.tokens[reserved:]))
                    continue
                if isinstance(event, Token):
                    waiting[index].append(event)
                    text = stream.add(event.id)
                    if not (text or stream.stopped):
                        continue
                    tokens, waiting[index] = tuple(waiting[index]), []
                    yield Piece(index, text, tokens, finish="stop" if stream.stopped else None)
                    if stream.stopped:
                        left.discard(index)
                        self.engine.cancel(self.requests[index])
                    continue
                left.discard(index)
                yield self._last(index, event, tuple(waiting[index]))
        finally:
            self.cancel()

    def _last(self, index: int, end: End, tokens: tuple[Token, ...]) -> Piece:
        if end.reason in ("error", "abort"):
            raise Refused(end.message or "the request was cancelled", 500)
        text = self.streams[index].end()
        return Piece(index, text, tokens, finish="stop" if self.streams[index].stopped else end.reason)

    @property
    def usage(self) -> dict[str, Any]:
        """The numbers of tokens, as OpenAI counts them; of each prompt, only the first answer may read it anew."""
        read = sum(len(prompt.ids) - prompt.reserved for prompt in self.prompts)
        made = sum(request.made for request in self.requests)
        cached = sum(one.cached for one in self.requests[:: len(self.requests) // len(self.prompts)])
        counts = {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
        return {**counts, "prompt_tokens_details": {"cached_tokens": cached}}
