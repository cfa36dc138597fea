"""Windows of plain text: tokens that a model reads, and those that it predicts after them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from prefix_jax.data import tokens
from prefix_jax.data.tokens import Frame

# Longest window. It bounds memory where the context length is long or unlimited.
LONGEST = 1024


class Window(NamedTuple):
    """Part of a text: tokens that are read first, and those that are predicted after them."""

    given: list[int]
    predicted: list[int]


def frame(tokenizer: Any) -> Frame:
    """Returns the special tokens that a tokenizer puts before and after a text."""
    whole, plain = list(tokenizer("a")["input_ids"]), tokens.encoded_texts(tokenizer, ["a"], "source")[0]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return Frame(tuple(whole[:start]), tuple(whole[start + len(plain) :]))
    return Frame((), ())


def windows(encoder_decoder: bool, ids: Sequence[int], around: Frame, width: int) -> list[Window]:
    """Cuts a text's ids into windows of at most `width` tokens that are read."""
    ids = list(ids)
    if encoder_decoder:
        half = width // 2 - len(around.before) - len(around.after)
        pieces = [ids[start : start + 2 * half] for start in range(0, len(ids), 2 * half)]
        halves = [(piece[: len(piece) // 2], piece[len(piece) // 2 :]) for piece in pieces if len(piece) > 1]
        return [Window([*around.before, *first, *around.after], second) for first, second in halves]
    count = width - max(len(around.before), 1) + 1  # the last token is predicted, never read
    if around.before:
        return [Window(list(around.before), ids[i : i + count]) for i in range(0, len(ids), count)]
    return [Window([ids[i - 1]], ids[i : i + count]) for i in range(1, len(ids), count)]
