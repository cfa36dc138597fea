"""Records of plain text for a session: their windows, and the token ids of these."""

from collections.abc import Sequence

import numpy as np

from prefix_jax import tasks
from prefix_jax.cache import cache_path
from prefix_jax.data import tokens
from prefix_jax.data.records import Record
from prefix_jax.data.tokens import Ragged, TokenisedSet
from prefix_jax.data.windows import LONGEST, Window, frame, windows
from prefix_jax.dependencies import TokenIds
from prefix_jax.errors import UserError
from prefix_jax.options import Config
from prefix_jax.training.session import Session

_FEWEST = 16  # tokens of a window


def is_plain(config: Config) -> bool:
    """Returns whether the records of a configuration's task are plain text, which has no source."""
    return tasks.find(config.data.task).plain_text


def window_length(session: Session) -> int:
    """Returns the length of a window: `data.window`, or as many tokens as fit beside the virtual tokens.

    Encoder-decoder: of encoder and decoder together.

    Raises:
      UserError: so many do not fit, or too few.
    """
    wanted, context, method = session.config.data.window, session.model_config.context_length, session.method
    room = 2**31 if context is None else context - method.positions
    if context is not None and session.model_config.is_encoder_decoder:
        room = 2 * min(context - method.reserved, room + method.reserved)
    found = wanted or min(room, LONGEST)
    if found > room or found < _FEWEST:
        most = f"the model's context length leaves {room}" if found > room else f"it must be at least {_FEWEST}"
        raise UserError(f"a window of plain text has {found} tokens, and {most}; set --config.data.window")
    return found


def windows_of(session: Session, records: Sequence[Record]) -> tuple[list[Window], list[int]]:
    """Returns the windows of texts, and for each window the place of its text.

    Raises:
      UserError: a text has a token that the embedding lacks.
    """
    ids = tokens.encoded_texts(session.tokenizer, [record.target for record in records], "source")
    around, width = frame(session.tokenizer), window_length(session)
    cut: list[Window] = []
    owners: list[int] = []
    for place, one in enumerate(ids):
        own = windows(session.model_config.is_encoder_decoder, one, around, width)
        cut += own
        owners += [place] * len(own)
    for part in (ragged([one.given for one in cut]), ragged([one.predicted for one in cut])):
        session.check_ids(part, lambda i: f"record {records[owners[i]].id}")
    return cut, owners


def token_ids(session: Session, records: Sequence[Record]) -> TokenisedSet:
    """Returns the windows of texts as token ids of sources and targets, from the cache where they were made before."""
    depends = TokenIds(
        version=tokens.VERSION,
        tokenizer=session.pretrained.tokenizer_key,
        source_format="plain text",
        target_format="",
        encoder_decoder=session.model_config.is_encoder_decoder,
        limits=(window_length(session),),
        sources=(),
        targets=[record.target for record in records],
    )

    def make() -> TokenisedSet:
        cut, _ = windows_of(session, records)
        return TokenisedSet(ragged([one.given for one in cut]), ragged([one.predicted for one in cut]))

    found = tokens.kept(cache_path("tokens"), depends, make)
    for part in (found.sources, found.targets):
        session.check_ids(part, lambda i: f"window {i + 1} of the texts")
    return found


def ragged(lists: Sequence[Sequence[int]]) -> Ragged:
    """Returns lists of ids as one array."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(one) for one in lists], dtype=np.int64)])
    return Ragged(np.fromiter((id for one in lists for id in one), np.int32, int(offsets[-1])), offsets)
