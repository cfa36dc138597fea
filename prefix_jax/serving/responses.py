"""Bodies of answers in OpenAI's forms, whole and as pieces of a stream."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from prefix_jax.serving.engine import Token
from prefix_jax.serving.jobs import Piece, Prompt

Word = Callable[[int], str]


class Completions:
    """The forms of `/v1/completions`."""

    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def __init__(self, prompts: Sequence[Prompt], answers: int, echo: bool, logprobs: bool, word: Word):
        """Args:
        answers: number of answers to a prompt.
        word: returns the text of a token.
        """
        self._prompts, self._answers, self._echo, self._logprobs, self._word = prompts, answers, echo, logprobs, word
        self._ends: dict[int, int] = {}

    def first(self, index: int) -> dict[str, Any] | None:
        """Returns what a stream begins with."""
        if not self._echo:
            return None
        text = self._prompts[index // self._answers].text
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def piece(self, piece: Piece) -> dict[str, Any]:
        """Returns a choice of a stream."""
        logprobs = None
        if self._logprobs and piece.scores is not None:
            ids = self._prompts[piece.index // self._answers].ids
            logprobs = self._of_tokens(piece.index, (Token(ids[0], float("nan")), *piece.scores.tokens))
        elif self._logprobs and piece.tokens:
            logprobs = self._of_tokens(piece.index, piece.tokens)
        return {"index": piece.index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish}

    def choice(self, pieces: Sequence[Piece], index: int) -> dict[str, Any]:
        """Returns a whole choice."""
        found = [self.piece(piece) for piece in pieces]
        text = "".join(one["text"] for one in found)
        first = self.first(index)
        logprobs = [one["logprobs"] for one in found if one["logprobs"]]
        joined = {name: [x for one in logprobs for x in one[name]] for name in logprobs[0]} if logprobs else None
        return {
            "index": index,
            "text": ((first or {}).get("text") or "") + text,
            "logprobs": joined,
            "finish_reason": found[-1]["finish_reason"],
        }

    def _of_tokens(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        words = [self._word(token.id) for token in tokens]
        offsets, at = [], self._ends.get(index, 0)
        for word in words:
            offsets.append(at)
            at += len(word)
        self._ends[index] = at
        known = [token.score == token.score for token in tokens]
        return {
            "tokens": words,
            "token_logprobs": [token.score if sure else None for token, sure in zip(tokens, known)],
            "top_logprobs": [self._tops(token) if sure else None for token, sure in zip(tokens, known)],
            "text_offset": offsets,
        }

    def _tops(self, token: Token) -> dict[str, float]:
        own = {self._word(token.id): token.score}
        return own | {self._word(id): score for id, score in reversed(token.tops)}


class Chat:
    """The forms of `/v1/chat/completions`."""

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, logprobs: bool, word: Word):
        self._logprobs, self._word = logprobs, word

    def first(self, index: int) -> dict[str, Any] | None:
        """Returns what a stream begins with."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}

    def piece(self, piece: Piece) -> dict[str, Any]:
        """Returns a choice of a stream."""
        delta = {"content": piece.text} if piece.text else {}
        logprobs = self._of_tokens(piece.tokens) if self._logprobs and piece.tokens else None
        return {"index": piece.index, "delta": delta, "logprobs": logprobs, "finish_reason": piece.finish}

    def choice(self, pieces: Sequence[Piece], index: int) -> dict[str, Any]:
        """Returns a whole choice."""
        tokens = [token for piece in pieces for token in piece.tokens]
        return {
            "index": index,
            "message": {"role": "assistant", "content": "".join(piece.text for piece in pieces)},
            "logprobs": self._of_tokens(tokens) if self._logprobs else None,
            "finish_reason": pieces[-1].finish,
        }

    def _of_tokens(self, tokens: Sequence[Token]) -> dict[str, Any]:
        entry = lambda id, score: {"token": self._word(id), "logprob": score, "bytes": [*self._word(id).encode()]}
        return {
            "content": [
                {**entry(token.id, token.score), "top_logprobs": [entry(*top) for top in token.tops]}
                for token in tokens
            ]
        }


Form = Completions | Chat


class Envelope:
    """What surrounds the choices of a response."""

    def __init__(self, form: Form, model: str):
        self.form = form
        self._fields = {"id": f"{form.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        """Returns a response."""
        return {**self._fields, "object": self.form.whole, "choices": choices, "usage": usage}

    def part(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """Returns a piece of a stream; the last has `usage` and no choices, if it was asked for."""
        more = {} if usage is None else {"usage": usage}
        return {**self._fields, "object": self.form.part, "choices": choices, **more}
