"""Continuous batching: requests of token ids come and go, and each step gives a token to all that run."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from prefix_jax.decoding.bank import Bank
from prefix_jax.decoding.generation_config import OfModel, check_ids
from prefix_jax.decoding.shelf import NONE, Kind
from prefix_jax.decoding.slots import How, Rules, admit, admit_after, empty_slots, feed, pick, score_text
from prefix_jax.errors import UserError
from prefix_jax.models import Model, finite
from prefix_jax.models.prefix import Prefix
from prefix_jax.serving.cached_prompts import Beginning, CachedPrompts
from prefix_jax.tuning import TunedState

# Number of likeliest tokens that a step can return.
TOPS = 20


class Busy(UserError):
    """The queue is full; the request may be sent again later."""


class Unknown(UserError):
    """No tuned state has that name."""


class Sampling(NamedTuple):
    """How a request picks its tokens; as `decoding.slots.Rules`, but `tops` is None where no log-probabilities are
    wanted.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    row: int = 0
    tops: int | None = None


class Token(NamedTuple):
    """A new token, its log-probability, and the likeliest tokens with theirs."""

    id: int
    score: float
    tops: tuple[tuple[int, float], ...] = ()


class End(NamedTuple):
    """The end of a request: "stop" at an end token, "length", "abort", or "error" with its message."""

    reason: str
    message: str = ""


class Scores(NamedTuple):
    """Of each token of a text but the first: log-probability, and the likeliest tokens with theirs."""

    tokens: tuple[Token, ...]


@dataclass(eq=False)
class Request:
    """A prompt in token ids, the name of its tuned state, and the function that receives its `Token`s and its `End`.

    With `scored`, it has `Scores` of its prompt before them. `emit` is called in the engine's thread. `cached` is the
    number of tokens of the prompt that were known from an earlier one.
    """

    ids: list[int]
    name: str | None
    sampling: Sampling
    emit: Callable[[Token | Scores | End], None]
    scored: bool = False
    cancelled: bool = False
    slot: int = -1
    place: int = NONE
    made: int = 0
    cached: int = 0


class Engine:
    """Slots, a bank of tuned states, and a queue of requests; one thread calls `step`, any may call the rest."""

    def __init__(
        self,
        model: Model,
        variables: dict,
        *,
        slots: int = 8,
        capacity: int = 1024,
        kind: Kind = Kind(64),  # noqa: B008
        prefixes: int = 64,
        queue: int = 256,
        narrowest: int = 32,
        of_model: OfModel = OfModel(),  # noqa: B008
        more_ends: tuple[int, ...] = (),
    ):
        """Args:
          slots: number of requests that run together.
          capacity: longest prompt and new tokens together; of an encoder-decoder, the longest of each.
          kind: the greatest sizes of tuned states, and how prefixes are seen.
          prefixes: largest number of tuned states.
          queue: largest number of waiting requests.
          narrowest: shortest width to which prompts are padded, and in which caches are read; wider ones double.
          of_model: tokens that the model forces and bans.
          more_ends: end tokens beside those of the model.

        Raises:
          UserError: a number is below 1.
        """
        for name, value in (("slots", slots), ("capacity", capacity), ("queue", queue)):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        config = model.model_config
        self.model, self.variables, self.capacity, self.queue = model, variables, capacity, queue
        self.bank = Bank(config, prefixes, kind)
        self._kind, self._of_model = kind, of_model
        self.ends = (*config.eos_ids, *(id for id in more_ends if id not in config.eos_ids))
        self.widths = _widths(capacity, narrowest)
        self._slots = empty_slots(model, variables, slots, capacity, self.widths[-1])
        self._running: list[Request | None] = [None] * slots
        self._waiting: deque[Request] = deque()
        self._cached = CachedPrompts(slots)
        self._rules = _idle_rules(slots)
        self._lock, self._work = threading.RLock(), threading.Condition()

    def put(self, name: str, state: TunedState | Prefix) -> None:
        """Adds a tuned state, or replaces the one of that name; compiles nothing.

        Raises:
          UserError: it does not fit, or is in use.
        """
        with self._lock:
            self.bank.put(name, state)
            self._cached.forget(name)

    def remove(self, name: str) -> None:
        """Removes a tuned state.

        Raises:
          UserError: there is none of that name, or it is in use.
        """
        with self._lock:
            self.bank.remove(name)

    def forget(self, name: str) -> None:
        """Removes a tuned state, and those that it is a part of; there need not be any.

        Raises:
          UserError: one is in use.
        """
        with self._lock:
            self.bank.forget(name)

    @property
    def counts(self) -> tuple[int, int]:
        """How many requests run and wait."""
        with self._lock:
            return sum(one is not None for one in self._running), len(self._waiting)

    @property
    def used(self) -> float:
        """The used share of the caches."""
        with self._lock:
            tokens = sum(len(one.ids) + one.made for one in self._running if one is not None)
            return tokens / (len(self._running) * self.capacity)

    def check(self, ids: list[int], name: str | None, sampling: Sampling) -> None:
        """Raises UserError unless a request fits the model and the slots."""
        config = self.model.model_config
        if not ids:
            raise UserError("the prompt has no tokens; give it text")
        check_ids([ids], config)
        new, room = max(sampling.max_tokens, 0), self.room(name)
        if (max(len(ids), new) if config.is_encoder_decoder else len(ids) + new) > room:
            raise UserError(
                f"the maximum context length is {room} tokens, and the request has {len(ids)} in the prompt and asks "
                f"for {new}; shorten the prompt or lower max_tokens"
            )

    def room(self, name: str | None) -> int:
        """Returns how many tokens a prompt and its answer may have, or each in an encoder-decoder.

        Raises:
          Unknown: no tuned state has that name.
        """
        offset, window = self._offset(name), self.model.model_config.context_length
        return self.capacity if window is None else min(self.capacity, window - offset)

    def _offset(self, name: str | None) -> int:
        if name is None:
            return 0
        with self._lock:
            if name not in self.bank:
                raise Unknown(f'the model "{name}" does not exist')
            return self.bank.offset(name)

    def reserved(self, name: str | None) -> int:
        """Returns how many places at the start of a prompt hold virtual tokens of the state of that name."""
        with self._lock:
            return self.bank.reserved(name) if name is not None and name in self.bank else 0

    def submit(self, request: Request) -> None:
        """Queues a request.

        Raises:
          Busy: the queue is full.
          UserError: as `check`.
        """
        self.check(request.ids, request.name, request.sampling)
        with self._lock:
            if len(self._waiting) >= self.queue:
                raise Busy(f"{len(self._waiting)} requests wait already; try again later")
            if request.name is not None:
                if request.name not in self.bank:
                    raise Unknown(f'the model "{request.name}" does not exist')
                request.place = self.bank.acquire(request.name).slot
            self._waiting.append(request)
        with self._work:
            self._work.notify()

    def cancel(self, request: Request) -> None:
        """Ends a request before its next token."""
        request.cancelled = True
        with self._work:
            self._work.notify()

    def wait(self, seconds: float) -> None:
        """Returns when there may be work, or after some time."""
        with self._work:
            if self.counts == (0, 0):
                self._work.wait(seconds)

    def step(self) -> bool:
        """Admits what waits, and gives a token to all that run; returns whether there was anything to do."""
        with self._lock:
            self._drop_cancelled()
            scored = self._admit()
            rows = [(slot, one) for slot, one in enumerate(self._running) if one is not None]
            if not rows:
                return scored
            samplings = [one.sampling for _, one in rows]
            how = _how(samplings)
            picked = pick(self.model.model_config, self._of_model, self.ends, how, self._slots, self._rules)
            mask = np.array([one is not None for one in self._running])
            tokens, width = picked.tokens, self._width_read()
            self._slots = feed(self.model, width, self.variables, self._shelf, self._slots, tokens, mask)
        found = jax.device_get(picked)  # while the tokens are fed
        for slot, request in rows:
            token = _token(found, slot, request.sampling.tops)
            self._cached.add(slot, token.id)
            self._deliver(request, token)
        return True

    def abort_all(self, message: str) -> None:
        """Ends all requests with an error, after which the engine can be used again."""
        with self._lock:
            for request in [*self._waiting, *(one for one in self._running if one is not None)]:
                self._finish(request, End("error", message))
            self._waiting.clear()
            self._cached.clear()
            self._slots = empty_slots(self.model, self.variables, len(self._running), self.capacity, self.widths[-1])

    def warm(self) -> None:
        """Compiles every program that serving can need, for an engine without requests."""
        with self._lock:
            # On a mesh, the first programs see arrays that no program has placed yet.
            for _ in range(1 if self.model.sharder is None else 2):
                self._run_all()
            jax.block_until_ready(self._slots)

    def _run_all(self) -> None:
        """Runs every program once."""
        slot, place, one = np.int32(0), np.int32(NONE), np.int32(1)
        for width in self.widths:
            tokens = np.zeros((1, width), np.int32)
            self._slots = admit(self.model, self.variables, self._shelf, self._slots, slot, place, tokens, one)
            if self._reuses:
                args = self._shelf, self._slots, slot, place, tokens, one, slot, one
                self._slots = admit_after(self.model, self.variables, *args)
                score_text(self.model, TOPS, self.variables, self._shelf, place, tokens[0], one)
        for samples, truncates in ((False, False), (True, False), (True, True)):
            for tops in (0, TOPS):
                how = How(samples, truncates, tops)
                picked = pick(self.model.model_config, self._of_model, self.ends, how, self._slots, self._rules)
        idle = np.zeros(len(self._running), bool)
        for width in self.widths:
            self._slots = feed(self.model, width, self.variables, self._shelf, self._slots, picked.tokens, idle)

    @staticmethod
    def programs() -> int:
        """Returns how many programs of serving the process has compiled."""
        from prefix_jax.decoding.shelf import filled

        programs: tuple[Any, ...] = (admit, admit_after, pick, feed, score_text, filled)
        return sum(one._cache_size() for one in programs)

    @property
    def _shelf(self) -> Any:
        return self.bank.shelves[self._kind]

    def _drop_cancelled(self) -> None:
        for request in [one for one in (*self._waiting, *self._running) if one is not None and one.cancelled]:
            if request in self._waiting:
                self._waiting.remove(request)
            self._finish(request, End("abort"))

    def _admit(self) -> bool:
        """Moves requests from the queue to free slots; returns whether there was any."""
        any_ = False
        while self._waiting and self._cached.free:
            request = self._waiting.popleft()
            any_ = True
            if request.scored:
                request.emit(self._scored(request))
            if request.sampling.max_tokens < 1:
                self._finish(request, End("length"))
                continue
            self._start(request)
        return any_

    def _start(self, request: Request) -> None:
        """Puts a request into a free slot; computes what of its prompt is not in a cache."""
        beginning = self._beginning(request)
        slot = request.slot = self._cached.take(beginning)
        self._running[slot] = request
        request.cached = 0 if beginning is None else beginning.kept
        rest = request.ids[request.cached :]
        args = np.int32(slot), np.int32(request.place), self._padded(rest)[None], np.int32(len(rest))
        whole = self.model, self.variables, self._shelf, self._slots
        if beginning is None:
            self._slots = admit(*whole, *args)
        else:
            self._slots = admit_after(*whole, *args, np.int32(beginning.slot), np.int32(beginning.kept))
        self._cached.hold(slot, request.name, request.ids)
        _set_rules(self._rules, slot, request.sampling)

    @property
    def _reuses(self) -> bool:
        """Whether the cache of a prompt's first tokens does not depend on the others."""
        return not self.model.model_config.is_encoder_decoder

    def _beginning(self, request: Request) -> Beginning | None:
        """Returns where the beginning of a request's prompt is cached, if that saves anything."""
        if not self._reuses:
            return None
        found = self._cached.longest(request.name, request.ids)
        if found is None:
            return None
        # The last place of a full cache is written again by every step.
        found = found._replace(kept=min(found.kept, self.capacity - 1))
        count = len(request.ids)
        return found if self._width(count - found.kept) < self._width(count) else None

    def _scored(self, request: Request) -> Scores:
        tokens, length = self._padded(request.ids), np.int32(len(request.ids))
        place = np.int32(request.place)
        found = jax.device_get(score_text(self.model, TOPS, self.variables, self._shelf, place, tokens, length))
        tops = request.sampling.tops or 0
        rows = range(1, len(request.ids))
        return Scores(
            tuple(
                Token(request.ids[i], float(found.scores[i]), _pairs(found.top_tokens[i], found.top_scores[i], tops))
                for i in rows
            )
        )

    def _width_read(self) -> int:
        """Returns the width of the caches that a step has to read."""
        running = [one for one in self._running if one is not None]
        if self.model.model_config.is_encoder_decoder:
            return self._width(max(max(len(one.ids), one.made + 1) for one in running))
        return self._width(max(len(one.ids) + one.made for one in running))

    def _width(self, tokens: int) -> int:
        return next(width for width in self.widths if width >= tokens)

    def _padded(self, ids: list[int]) -> np.ndarray:
        tokens = np.zeros(self._width(len(ids)), np.int32)
        tokens[: len(ids)] = ids
        return tokens

    def _deliver(self, request: Request, token: Token) -> None:
        """Gives a request its token, and ends it where that was the last."""
        request.made += 1
        if not np.isfinite(token.score):
            said = f"the model's outputs are not finite: {finite.blame(self.variables, TunedState())}"
            self._finish(request, End("error", said))
        elif token.id in self.ends:
            self._finish(request, End("stop"))
        else:
            request.emit(token)
            if request.made >= request.sampling.max_tokens:
                self._finish(request, End("length"))

    def _finish(self, request: Request, end: End) -> None:
        with self._lock:
            if request.slot >= 0:
                self._running[request.slot] = None
                self._cached.give_back(request.slot)
                request.slot = -1
            if request.name is not None:
                self.bank.release(request.name)
        request.emit(end)


def _widths(capacity: int, narrowest: int) -> tuple[int, ...]:
    """Returns the widths to which prompts are padded: doubled up to the capacity."""
    widths = [min(narrowest, capacity)]
    while widths[-1] < capacity:
        widths.append(min(2 * widths[-1], capacity))
    return tuple(widths)


def _idle_rules(slots: int) -> Rules:
    ints = lambda: np.zeros(slots, np.int32)
    floats = lambda value: np.full(slots, value, np.float32)
    return Rules(floats(0), ints(), floats(1), np.zeros(slots, np.uint32), ints(), ints(), ints())


def _set_rules(rules: Rules, slot: int, sampling: Sampling) -> None:
    rules.temperature[slot], rules.top_k[slot], rules.top_p[slot] = sampling.temperature, sampling.top_k, sampling.top_p
    rules.seed[slot], rules.row[slot] = sampling.seed, sampling.row
    rules.least[slot], rules.most[slot] = sampling.min_tokens, sampling.max_tokens


def _how(samplings: list[Sampling]) -> How:
    """Returns what a step of some requests has to compute."""
    drawing = [one for one in samplings if one.temperature > 0]
    truncates = any(one.top_k > 0 or one.top_p < 1 for one in drawing)
    return How(bool(drawing), truncates, TOPS if any(one.tops for one in samplings) else 0)


def _token(found: Any, slot: int, tops: int | None) -> Token:
    top = _pairs(found.top_tokens[slot], found.top_scores[slot], tops) if tops else ()
    return Token(int(found.tokens[slot]), float(found.scores[slot]), top)


def _pairs(ids: np.ndarray, scores: np.ndarray, count: int) -> tuple[tuple[int, float], ...]:
    return tuple(zip(ids[:count].tolist(), scores[:count].tolist(), strict=True))
