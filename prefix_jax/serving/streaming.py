"""A model's text piece by piece as it is generated, for one prompt."""

from collections.abc import Iterator, Sequence

from prefix_jax import decoding
from prefix_jax.decoding.generation_config import OfModel
from prefix_jax.decoding.shelf import kind_of
from prefix_jax.errors import UserError
from prefix_jax.inference.generation import decoding_options, source_ids
from prefix_jax.serving.engine import End, Engine, Request, Sampling, Scores, Token
from prefix_jax.serving.text import TextStream
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState

# The name of the only prefix.
_OWN = "own"


class Streamer:
    """Generates text of a model, tuned or not, one prompt after another; compiles once per size of prompts."""

    def __init__(self, opened: Session, kept: TunedState | None):
        self._opened, self._kept = opened, kept or TunedState()
        self._engines: dict[tuple, Engine] = {}

    @property
    def room(self) -> int:
        """How many tokens a prompt may have beside the new ones; 0: any number."""
        prefix, window = self._kept.prefix, self._opened.model_config.context_length
        if window is None:
            return 0
        used = self._kept.reserved + (0 if prefix is None else int(prefix.position_offset))
        new = 0 if self._opened.model_config.is_encoder_decoder else self._opened.config.decoding.max_length
        return max(window - used - new, 1)

    def of_source(self, source: str) -> Iterator[str]:
        """Yields the text for a source, which is read as those of the training data: what `write_texts` returns.

        Raises:
          UserError: the source is empty or too long, or an option cannot be used in a stream.
        """
        ids = source_ids(self._opened, [source], "", self._kept.reserved)[0].tolist()
        printer = self._opened.printer
        stops = [printer.tail] if printer.tail and not printer.closed else []
        yield from self.of_ids(ids, stops, strip=True)

    def of_ids(self, ids: Sequence[int], stops: Sequence[str] = (), strip: bool = False) -> Iterator[str]:
        """Yields the text that follows token ids.

        Args:
          stops: strings that end the text, which stops before them.
          strip: whether to leave out white space at both ends.

        Raises:
          UserError: as `of_source`.
        """
        options = decoding_options(self._opened)
        _check(options)
        whole = [self._opened.model_config.pad_id] * self._kept.reserved + list(ids)
        engine, events = self._engine(options, len(whole)), []
        name = None if self._kept.prefix is None else _OWN
        stream = TextStream(self._decode, stops, strip)
        request = Request(whole, name, _sampling(options), events.append)
        engine.submit(request)
        try:
            while not stream.stopped:
                engine.step()
                for event in events:
                    if piece := self._piece(event, stream):
                        yield piece
                    if isinstance(event, End):
                        return
                events.clear()
        finally:
            engine.cancel(request)
            engine.step()

    def _piece(self, event: Token | Scores | End, stream: TextStream) -> str:
        if isinstance(event, Token):
            return stream.add(event.id)
        if isinstance(event, End) and event.reason == "error":
            raise UserError(event.message)
        return stream.end()

    def _decode(self, ids: list[int]) -> str:
        tokenizer = self._opened.tokenizer
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _engine(self, options: decoding.GenerationConfig, length: int) -> Engine:
        """Returns an engine of one slot with room for a prompt and its answer, in a power of two of tokens."""
        config = self._opened.model_config
        needed, capacity = max(length, options.max_length), 64
        needed = needed if config.is_encoder_decoder else length + options.max_length
        while capacity < needed:
            capacity *= 2
        capacity = min(capacity, config.context_length or capacity)
        of_model = OfModel(options.forced_bos, options.forced_eos, (), options.banned_tokens)
        key = (capacity, of_model, options.more_ends)
        if key not in self._engines:
            prefix = self._kept.prefix
            engine = Engine(
                self._opened.model, self._kept.onto(self._opened.base), slots=1, capacity=capacity,
                kind=kind_of(TunedState(prefix)), prefixes=1, of_model=of_model, more_ends=options.more_ends,
            )  # fmt: skip
            if prefix is not None:
                engine.put(_OWN, prefix)
            self._engines[key] = engine
        return self._engines[key]


def streams(opened: Session) -> bool:
    """Returns whether the configuration's options can be used in a stream."""
    try:
        _check(decoding_options(opened))
    except UserError:
        return False
    return True


def _check(options: decoding.GenerationConfig) -> None:
    if options.width > 1:
        raise UserError("beam search does not stream; set decoding.strategy to greedy or sample")
    if options.no_repeat_ngram or options.banned_sequences:
        raise UserError("decoding.no_repeat_ngram, and banned sequences of tokens, do not stream; use generate")


def _sampling(options: decoding.GenerationConfig) -> Sampling:
    greedy = options.strategy != "sample"
    return Sampling(
        max_tokens=options.max_length,
        min_tokens=options.min_length,
        temperature=0.0 if greedy else options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
