"""A frozen language model: its parts as pure functions and pytrees, and text and scores of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from prefix_jax import decoding, inference, tasks
from prefix_jax.api import data as given
from prefix_jax.api.configuring import Methods, method_name, method_options, with_options
from prefix_jax.api.results import Scores, facts_table
from prefix_jax.config import default_config
from prefix_jax.data.batching import Batch, Layout, PackedBatches
from prefix_jax.data.conversations import is_conversation
from prefix_jax.data.records import Record, group
from prefix_jax.errors import UserError
from prefix_jax.evaluation import scorers
from prefix_jax.models import prefix as pytree
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.options import Config
from prefix_jax.serving import conversation
from prefix_jax.serving.streaming import Streamer
from prefix_jax.training import conversations
from prefix_jax.training.conversations import is_chat
from prefix_jax.training.plain_text import is_plain
from prefix_jax.training.selection import columns, text_inputs
from prefix_jax.training.session import Session
from prefix_jax.training.token_sets import tokenised
from prefix_jax.tuning import Method, TunedState
from prefix_jax.tuning.method import count


class LanguageModel:
    """A frozen language model, as `load_model` returns it.

    Attributes:
      model: the network, a Flax module; `model.apply(variables, tokens, prefix=prefix)` returns logits.
      variables: what `model.apply` takes first; never changed.

    >>> lm
    LanguageModel('tiny-gpt2', 46,464 parameters, float32)
    >>> lm.generate("name : Place 3", strategy="greedy", max_length=4) == lm.generate(
    ...     ["name : Place 3"], strategy="greedy", max_length=4)[0]
    True
    """

    def __init__(self, session: Session):
        self._session = session
        self.model = session.model
        self.variables: Mapping[str, Any] = session.base

    @property
    def config(self) -> ModelConfig:
        """The model's shapes."""
        return self._session.model_config

    @property
    def tokenizer(self) -> Any:
        """transformers' tokenizer."""
        return self._session.tokenizer

    @property
    def source(self) -> str:
        """What `load_model` was given."""
        return str(self._session.config.model.source)

    def generate(
        self, texts: str | Sequence[str], *, prefix: pytree.Prefix | None = None, progress: bool = False, **options: Any
    ) -> Any:
        """Returns the model's text for a source, or a list of them for a list.

        Args:
          texts: sources, or rows as mappings of columns.
          prefix: a prefix of your own making (see `prefix_jax.prefix`); None: the bare model.
          progress: whether to show a progress bar.
          **options: of the section `decoding`, such as `strategy="greedy"`, `beams=5` and `max_length=60`.

        Raises:
          UserError: a text is empty or too long, or an option is out of its range.
        """
        return generate(self._session, self._kept(prefix), texts, progress, options)

    def stream(self, text: str, *, prefix: pytree.Prefix | None = None, **options: Any) -> Iterator[str]:
        """Yields the model's text for a source piece by piece; see `Tuned.stream`."""
        return stream(self._session, self._kept(prefix), text, options)

    def chat(self, messages: Any, *, stream: bool = False, prefix: pytree.Prefix | None = None, **options: Any) -> Any:
        """Returns the model's next message of a conversation; see `Tuned.chat`."""
        return chat(self._session, self._kept(prefix), messages, stream, options)

    def evaluate(
        self, data: Any, *, prefix: pytree.Prefix | None = None, metrics: Sequence[str] = (), **options: Any
    ) -> Scores:
        """Returns the scores of the model on pairs, a file or a task's test split; see `Tuned.evaluate`."""
        return evaluate(self._session, self._kept(prefix), data, metrics, options)

    def method(self, methods: Methods) -> Method:
        """Returns the pure functions of a tuning method on this model: `init`, `export`, `mask`.

        >>> method = lm.method(pj.Prefix(length=3, hidden=16))
        >>> trainable = method.init(jax.random.key(0), lm.variables)
        >>> variables, prefix = method.materialise(trainable, lm.variables)
        >>> prefix.decoder.key.shape
        (2, 4, 3, 8)
        """
        return self._session.of(configuration(self._session, methods, {})).method

    def batch(self, pairs: Any, size: int | None = None) -> Batch:
        """Returns a packed batch of pairs, which a loss and a step take.

        Args:
          pairs: what `tune` takes in memory.
          size: number of pairs in the batch, from the first; None: all.

        >>> batch = lm.batch(pairs, size=2)
        >>> int(batch.segment_ids.max()) <= 2
        True
        """
        records = given.split_records(pairs, given.TRAIN, columns(self._session.config))[:size]
        opened = _reading(self._session, any(record.conversation for record in records))
        chat = is_chat(opened.config)
        found = conversations.fitting(opened, records, "pairs")[0] if chat else tokenised(opened, records)
        layout = Layout.of(self.config)
        batch = PackedBatches(found, layout, batch=len(found), shuffle=False).batch_at(0)
        return jax.tree.map(jax.numpy.asarray, batch)

    def _kept(self, prefix: pytree.Prefix | None) -> TunedState | None:
        if prefix is None:
            return None
        pytree.check(prefix, self.config)
        return TunedState(prefix)

    def __repr__(self) -> str:
        return f"LanguageModel({name_of(self._session)!r}, {parameters(self._session)})"

    def _repr_html_(self) -> str:
        return facts_table(facts_of(self._session), "Language model")


def name_of(session: Session) -> str:
    """Returns the source of a model, shortened to the last part of a path."""
    return str(session.config.model.source).rstrip("/").rpartition("/")[2]


def facts_of(session: Session) -> list[tuple[str, object]]:
    """Returns the rows about a model in a table of facts."""
    return [("Model", session.config.model.source), ("Frozen", parameters(session))]


def parameters(session: Session) -> str:
    """Returns the size and the type of a model in words."""
    kind = session.config.model.quantisation if session.config.model.quantisation != "none" else ""
    return f"{count(session.base):,} parameters, {kind or session.config.model.dtype}"


def configuration(session: Session, methods: Methods, options: Mapping[str, Any]) -> Config:
    """Returns a configuration for a loaded model, with the options of the methods and then others.

    Raises:
      UserError: a method or an option is unknown, or a value has another type.
    """
    config = default_config(method_name(methods))
    for section in ("model", "mesh"):
        config[section].update(session.config[section].to_dict())
    for name in options:
        if name.startswith(("model.", "mesh.")):
            raise UserError(f"{name} belongs to load_model; give it there")
    return with_options(with_options(config, method_options(methods, config)), options)


def generate(session: Session, kept: TunedState | None, texts: Any, progress: bool, options: Mapping[str, Any]) -> Any:
    """Returns the text of a model, tuned or not, for one source or several."""
    if isinstance(texts, (str, Mapping)):
        return generate(session, kept, [texts], progress, options)[0]
    texts = rows_of(texts)
    opened = session.of(with_options(session.config, {f"decoding.{name}": value for name, value in options.items()}))
    opened = _reading(opened, any(isinstance(one, tuple) and is_conversation(one[1]) for one in texts))
    decoding.GenerationConfig.from_config(opened.config.decoding)
    records = inference.unanswered(opened, texts)
    return inference.outputs(opened, kept, records, "generate", progress) if texts else []


def streamer(session: Session, kept: TunedState | None, options: Mapping[str, Any]) -> Streamer:
    """Returns a streamer; its strategy is greedy where the configuration has beam search and `options` have none."""
    beams = session.config.decoding.strategy == "beam"
    named = {**({"strategy": "greedy"} if beams else {}), **options}
    return Streamer(session.of(with_options(session.config, {f"decoding.{k}": v for k, v in named.items()})), kept)


def stream(session: Session, kept: TunedState | None, text: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yields the text of a model, tuned or not, for a source."""
    if not isinstance(text, str):
        raise UserError(f"a source is {type(text).__name__}; stream takes one text")
    return streamer(session, kept, options).of_source(text)


def chat(
    session: Session, kept: TunedState | None, messages: Any, streamed: bool, options: Mapping[str, Any]
) -> str | Iterator[str]:
    """Returns the next message of a conversation, whole or piece by piece."""
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    found = streamer(session, kept, options)
    pieces = found.of_ids(conversation.prompt(session, messages, limit=found.room), strip=True)
    return pieces if streamed else "".join(pieces)


def rows_of(texts: Sequence[Any]) -> list[Any]:
    """Returns texts as they are, and mappings as rows with their locations.

    Raises:
      UserError: one is neither.
    """
    rows = [(f"input {i}", dict(one)) if isinstance(one, Mapping) else one for i, one in enumerate(texts, 1)]
    if other := next((one for one in rows if not isinstance(one, (str, tuple))), None):
        raise UserError(f"a source is {type(other).__name__}; generate takes a text, a row, or a list of them")
    return rows


def evaluate(
    session: Session, kept: TunedState | None, data: Any, metrics: Sequence[str] | str, options: Mapping[str, Any]
) -> Scores:
    """Returns the scores of a model, tuned or not."""
    chosen = metrics if isinstance(metrics, str) else ",".join(metrics)
    named = {f"decoding.{name}": value for name, value in options.items()}
    opened = session.of(with_options(session.config, named | ({"evaluation.metrics": chosen} if chosen else {})))
    records = inputs(opened, data)
    opened = _reading(opened, any(record.conversation for record in records))
    scorers.try_out(opened.config)
    scorers.try_records(opened.config, records)
    sources = [record.source for record in records]
    texts = inference.outputs(opened, kept, records, "evaluate", progress=len(sources) > 32)
    measured = inference.likelihoods(opened, kept, records, "loss", progress=len(sources) > 32)
    found = scorers.score(opened.config, records, texts, measured)
    return Scores(found.scores, texts, sources, [record.references for record in records], found.unmeasured)


def inputs(session: Session, data: Any) -> list[Record]:
    """Returns one record per input with all its references: of a split of the run, or of other data."""
    config = session.config
    if data is None or (isinstance(data, str) and data in tasks.SPLITS):
        return text_inputs(config, data or given.TEST, session.held)
    if is_plain(config):
        return group(given.plain_records(data, config.data.task, columns(config)))
    return group(given.split_records(data, given.TEST, columns(config), task=config.data.task))


def _reading(session: Session, chat: bool) -> Session:
    """Returns the session for conversations, or as it is."""
    return session.of(with_options(session.config, {"data.task": tasks.CHAT})) if chat else session
