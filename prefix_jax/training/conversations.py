"""Conversations for a session: the token ids of those that are trained on, and of prompts."""

import sys
from collections.abc import Sequence
from importlib import metadata

import numpy as np

from prefix_jax import tasks, tuning
from prefix_jax.cache import cache_path
from prefix_jax.data import audit, chat_template, conversations, tokens
from prefix_jax.data.chat_template import Example
from prefix_jax.data.conversations import Conversation
from prefix_jax.data.records import Record
from prefix_jax.data.tokens import Ragged, TokenisedSet
from prefix_jax.dependencies import ConversationIds
from prefix_jax.errors import UserError
from prefix_jax.options import Config
from prefix_jax.parallel import distributed
from prefix_jax.training.plain_text import ragged
from prefix_jax.training.session import Session


def is_chat(config: Config) -> bool:
    """Returns whether the records of a configuration's task are conversations."""
    return tasks.find(config.data.task).chat


def with_template(config: Config) -> Config:
    """Returns a configuration that holds its chat template itself, in place of the name of a file with it."""
    if not (config.data.chat_template and is_chat(config)):
        return config
    changed = config.copy_and_resolve_references()
    changed.data.chat_template = chat_template.read(config.data.chat_template)
    return changed


def token_ids(session: Session, records: Sequence[Record]) -> TokenisedSet:
    """Returns what is trained on conversations, whatever its length: one example a conversation, or several.

    Each assistant turn is an example of its own for encoder-decoder models, for infixes, which stand before a turn, and
    where a template writes earlier turns otherwise than they are generated. From the cache where it was made before.

    Raises:
      UserError: the template refuses a conversation, or the embedding lacks one of its tokens.
    """
    apart = session.model_config.is_encoder_decoder or "infix" in tuning.names(session.config)
    depends = ConversationIds(
        version=chat_template.VERSION,
        tokenizer=session.pretrained.tokenizer_key,
        jinja=metadata.version("jinja2"),
        template=chat_template.read(session.config.data.chat_template),
        apart=apart,
        conversations=[_of(record).text() for record in records],
    )

    def make() -> TokenisedSet:
        found, owners = [], []
        for place, record in enumerate(records):
            own = session.chat.examples(_of(record), f"record {record.id}", apart)
            found += own
            owners += [place] * len(own)
        return _joined(found, owners)

    found = tokens.kept(cache_path("tokens"), depends, make)
    owners = owners_of(found)
    for part in (found.sources, found.targets):
        session.check_ids(part, lambda i: f"record {records[int(owners[i])].id}")
    return found


def fitting(session: Session, records: Sequence[Record], where: str) -> tuple[TokenisedSet, dict[str, str]]:
    """Returns what of conversations fits the model and `data.max_source_length`, and a sentence for what does not.

    With `data.too_long` "cut", the end of a conversation is lost; examples without any assistant's token are left out.

    Args:
      where: what the records are, for messages.

    Raises:
      UserError: one does not fit and `data.too_long` is "refuse", or nothing fits.
    """
    data, how = token_ids(session, records), session.config.data.too_long
    limits, halves = session.limits, session.model_config.is_encoder_decoder
    read, written = data.sources.lengths, data.targets.lengths
    limit = min(limits.source, limits.window or limits.source)
    long = (read > limits.source) | (written > limits.target) if halves else read + written > limit
    if not long.any():
        return data, {}
    longest = int((read + written).max())
    advice = "raise --config.data.max_source_length, up to the model's context length, or shorten them"
    if how == "refuse":
        raise UserError(f"{where}: {_counted(long, records)} are longer than {limit} tokens ({longest}); {advice}")
    if how == "cut" and not halves:
        kept = _cut(data, limit)
        lost = len(data) - len(kept)
        out = f", and {lost:,} of them left out, in which no assistant turn is left" if lost else ""
        said = f"{_counted(long, records)} are cut to {limit} tokens (the longest has {longest}){out}; {advice}"
    else:
        kept = data.at(np.flatnonzero(~long))
        said = f"{_counted(long, records)} are too long and left out (the longest has {longest} tokens); {advice}"
    if not len(kept):
        raise UserError(f"{where}: no conversation fits {limit} tokens; {advice}")
    return kept, {"cut": said}


def audited(session: Session, records: Sequence[Record], where: str) -> tuple[TokenisedSet, audit.Measured]:
    """Does what `fitting` does, and says its sentences on stderr; returns what `config.json` says of the records.

    Raises:
      UserError: as `fitting`, or there is something that `data.strict` makes an error.
    """
    data, found = fitting(session, records, where)
    audit.say(where, found, audit.strict(session.config.data.strict), quiet=not distributed.is_primary())
    return data, {"records": len(records), "examples": len(data), "said": list(found.values())}


def last_turns(session: Session, records: Sequence[Record]) -> TokenisedSet:
    """Returns one sequence a record: what stands before its last assistant turn, and the turn.

    Raises:
      UserError: as `token_ids`, or one does not fit the model's context.
    """
    data = token_ids(session, records)
    last = data.at(np.searchsorted(owners_of(data), np.arange(len(records)), side="right") - 1)
    found = []
    for i in range(len(last)):
        trained = np.zeros(len(last.sources[i]) + len(last.targets[i]), bool)
        start = last.targets.offsets[i]
        trained[len(last.sources[i]) :] = (
            True if last.trained is None else last.trained[start : last.targets.offsets[i + 1]]
        )
        found.append(Example([*last.sources[i], *last.targets[i]], chat_template.last_run(trained)))
    joined, window = _joined(found, list(range(len(found)))), session.model_config.context_length
    lengths = joined.sources.lengths + joined.targets.lengths - 1
    if window is not None and not session.model_config.is_encoder_decoder and lengths.max() > window:
        raise UserError(f"record {records[int(lengths.argmax())].id} is longer than the model's {window} positions")
    return joined


def prompts(session: Session, sources: Sequence[str], where: str = "input") -> Ragged:
    """Returns the ids of prompts: of sources as the chat task reads them.

    Earlier turns are left out where a conversation is longer than `data.max_source_length` or the model's context; a
    line on stderr counts them. `where` names the sources there; "": no line.

    Raises:
      UserError: the template refuses a conversation, or its last turn does not fit.
    """
    limits, refuse = session.limits, session.config.data.too_long == "refuse"
    limit = min(limits.source, limits.window or limits.source)
    found, shortened = [], 0
    for number, source in enumerate(sources, 1):
        conversation, named = conversations.parse(source), f"input {number}"
        if not any(conversations.spoken(message).strip() for message in conversation.messages):
            raise UserError(f"{named} is empty; give it text or leave it out")
        ids, short = session.chat.prompt(conversation, named, limit)
        if short and refuse:
            raise UserError(f"{named} is longer than {limit} tokens (data.too_long=refuse makes this an error)")
        found.append(ids)
        shortened += short
    if shortened and where and distributed.is_primary():
        said = f"{shortened:,} of {len(sources):,} conversations are longer than {limit} tokens"
        print(f"{where}: {said}: their first turns are left out (data.max_source_length)", file=sys.stderr)
    joined = ragged(found)
    session.check_ids(joined, lambda i: f"input {i + 1}")
    return joined


def owners_of(data: TokenisedSet) -> np.ndarray:
    """Returns for each sequence the place of its record."""
    return np.arange(len(data)) if data.owners is None else data.owners


def _of(record: Record) -> Conversation:
    """Returns the conversation of a record; of a source and a target, that of these."""
    if record.conversation:
        return conversations.parse(record.conversation)
    before = conversations.parse(record.source)
    answer = {"role": conversations.ASSISTANT, "content": record.target}
    return Conversation((*before.messages, answer), before.beside)


def _joined(examples: Sequence[Example], owners: Sequence[int]) -> TokenisedSet:
    """Returns examples as sources, until the first token of an assistant, and targets, until the last one.

    A token without one before it cannot be predicted.
    """
    firsts = [max(int(one.trained.argmax()), 1) for one in examples]
    ends = [int(np.flatnonzero(one.trained)[-1]) + 1 for one in examples]
    parts = list(zip(examples, firsts, ends, strict=True))
    marked = [one.trained[first:end] for one, first, end in parts]
    return TokenisedSet(
        ragged([one.ids[:first] for one, first, _ in parts]),
        ragged([one.ids[first:end] for one, first, end in parts]),
        trained=np.concatenate(marked) if marked else np.zeros(0, bool),
        owners=np.asarray(owners, np.int64),
    )


def _cut(data: TokenisedSet, limit: int) -> TokenisedSet:
    """Returns the sequences cut to `limit` tokens, without those in which nothing of an assistant is left."""
    found, owners = [], []
    for i, owner in enumerate(owners_of(data).tolist()):
        start, end = data.targets.offsets[i : i + 2]
        marks = np.ones(end - start, bool) if data.trained is None else data.trained[start:end]
        ids, trained = [*data.sources[i], *data.targets[i]], [*[False] * len(data.sources[i]), *marks]
        if any(trained[:limit]):
            found.append(Example(ids[:limit], np.asarray(trained[:limit], bool)))
            owners.append(owner)
    return _joined(found, owners)


def _counted(long: np.ndarray, records: Sequence[Record]) -> str:
    more = "" if len(long) == len(records) else f" examples of {len(records):,}"
    return f"{int(long.sum()):,} of {len(long):,}{more} conversations"
