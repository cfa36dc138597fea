"""Texts of many tuned states of one model: each record has the state that it names."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from prefix_jax import decoding
from prefix_jax.data.files import Row
from prefix_jax.data.records import Record
from prefix_jax.decoding.bank import PLUS, Bank
from prefix_jax.decoding.generate import decode_from_bank
from prefix_jax.decoding.shelf import OF_ROWS, joined
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.evaluation.answers import by_likelihood
from prefix_jax.inference.answering import outputs, unanswered
from prefix_jax.inference.generation import decoding_options, source_ids, with_progress
from prefix_jax.inference.opening import Tuned
from prefix_jax.models import finite
from prefix_jax.training.plain_text import is_plain
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState


class Answer(NamedTuple):
    """A record and the text for it."""

    record: Record
    text: str


class TunedBank:
    """Tuned states of one model, by name.

    Prefixes, prompts and LoRA lie in a bank; those of similar sizes share batches. Inputs of others (adapters,
    fine-tuned weights), and those that are answered by likelihood, have batches of their own.
    """

    def __init__(self, session: Session, slots: int = 1024):
        """Args:
          slots: largest number of tuned states on the devices.

        Raises:
          UserError: `slots` is below 1.
        """
        self._session, self._bank = session, Bank(session.model_config, slots)
        self._tuned: dict[str, Tuned] = {}

    @property
    def names(self) -> list[str]:
        return list(self._tuned)

    def put(self, name: str, tuned: Tuned) -> None:
        """Adds a tuned state, or replaces the one of that name.

        Raises:
          UserError: the name is empty or has a "+", or the state does not suit the model.
        """
        if not name or PLUS in name:
            raise UserError(f'"{name}" cannot be the name of a tuned state; give it a name without "{PLUS}"')
        self._bank.forget(name)
        self._tuned[name] = tuned
        if _in_rows(tuned.kept):
            self._place(name)

    def remove(self, name: str) -> None:
        """Removes a tuned state.

        Raises:
          UserError: there is none of that name.
        """
        self._of(name)
        self._bank.forget(name)
        del self._tuned[name]

    def outputs(
        self,
        texts: Sequence[str | Row],
        which: Sequence[str | None],
        changed: Callable[[Session], Session] = lambda session: session,
        progress: bool = False,
    ) -> list[Answer]:
        """Returns the output for each text or row with the state that it names, as that state alone would.

        Args:
          which: a name, several prefixes as "a+b", or None for the bare model, for each text.
          changed: returns a session with other options of decoding.
          progress: whether to show a progress bar.

        Raises:
          UserError: a name is unknown, or as `inference.outputs`.
        """
        rows = _rows_by_name(which)
        sessions = {name: changed(self._session_of(name)) for name in rows}
        answers: dict[int, Answer] = {}
        shared: dict[tuple[decoding.GenerationConfig, int], dict[str | None, list[Record]]] = {}
        for name, numbers in rows.items():
            opened = sessions[name]
            records = unanswered(opened, [texts[row] for row in numbers])
            if not self._shares(name) or is_plain(opened.config) or by_likelihood(opened.config, records):
                found = outputs(opened, self._kept(name), records, name or "generate", progress, numbers=numbers)
                answers |= zip(numbers, map(Answer, records, found), strict=True)
            else:
                key = decoding_options(opened), opened.config.decoding.batch
                shared.setdefault(key, {})[name] = records
        for (options, batch), members in shared.items():
            for some in _parts(members, self._bank.slots):
                answers |= self._decoded(sessions, some, rows, options, batch, progress)
        return [answers[row] for row in range(len(texts))]

    def _decoded(
        self,
        sessions: Mapping[str | None, Session],
        members: Mapping[str | None, list[Record]],
        rows: Mapping[str | None, list[int]],
        options: decoding.GenerationConfig,
        batch: int,
        progress: bool,
    ) -> dict[int, Answer]:
        """Returns the answers of some names, which share their options, by row."""
        names: list[str | None] = []
        ids: list[list[int]] = []
        pad = self._session.model_config.pad_id
        for name, own in members.items():
            if name is not None:
                self._place(name)
            sources = [record.source for record in own]
            reserved = 0 if name is None else self._bank.reserved(name)
            found = source_ids(sessions[name], sources, name or "input", reserved, rows[name])
            names += [name] * len(own)
            ids += [[pad] * reserved + found[i].tolist() for i in range(len(own))]
        numbers = [row for name in members for row in rows[name]]
        opened = self._session
        decode = lambda done: decode_from_bank(
            opened.model, opened.base, self._bank, names, ids, options, min(batch, len(ids)), done, numbers
        )
        try:
            tokens = with_progress(decode, len(ids), "generate", progress)
        except decoding.NotFinite as error:
            kept = self._kept(names[error.row]) or TunedState()
            said = f"the model's outputs for input {numbers[error.row] + 1} are not finite"
            raise UserError(f"{said}: {finite.blame(opened.base, kept)}") from None
        texts = [sessions[name].printer.texts([one])[0] for name, one in zip(names, tokens, strict=True)]
        records = [record for own in members.values() for record in own]
        return dict(zip(numbers, map(Answer, records, texts), strict=True))

    def _place(self, name: str) -> None:
        """Puts a tuned state, or several prefixes side by side, into the bank unless it is there."""
        if name not in self._bank:
            self._bank.put(name, self._state(name))

    def _state(self, name: str) -> TunedState:
        if PLUS not in name:
            return self._of(name).kept
        prefixes = [prefix for part in name.split(PLUS) if (prefix := self._of(part).kept.prefix) is not None]
        return TunedState(joined(prefixes, self._session.model_config))

    def _session_of(self, name: str | None) -> Session:
        """Returns the session whose formats and options a name has: of several, those of the first."""
        return self._session if name is None else self._of(name.split(PLUS)[0]).session

    def _kept(self, name: str | None) -> TunedState | None:
        return None if name is None else self._state(name)

    def _shares(self, name: str | None) -> bool:
        """Returns whether the rows of a name share batches with others.

        Raises:
          UserError: one of several names is not that of a prefix.
        """
        if name is None:
            return True
        parts = name.split(PLUS)
        bare = [part for part in parts if not _is_prefix(self._of(part).kept)]
        if bare and len(parts) > 1:
            raise UserError(f'"{bare[0]}" is no prefix alone, so it cannot be a part of "{name}"; join prefixes only')
        return len(parts) > 1 or _in_rows(self._of(name).kept)

    def _of(self, name: str) -> Tuned:
        if name not in self._tuned:
            known = ", ".join(f'"{one}"' for one in self.names[:10]) or "none"
            raise UserError(f'there is no tuned state "{name}"{did_you_mean(name, self.names)}; known are {known}')
        return self._tuned[name]


def _in_rows(kept: TunedState) -> bool:
    """Returns whether rows of a batch can have such a state of their own."""
    return set(kept.collections) <= set(OF_ROWS)


def _is_prefix(kept: TunedState) -> bool:
    return kept.prefix is not None and not kept.collections


def _parts(members: Mapping[str | None, list[Record]], slots: int) -> list[dict[str | None, list[Record]]]:
    """Returns the members in parts of at most as many prefixes as a bank has slots; the bare model is in the first."""
    named = [name for name in members if name is not None]
    bare: list[str | None] = [None] if None in members else []
    parts = [[*bare, *named[:slots]], *(named[i : i + slots] for i in range(slots, len(named), slots))]
    return [{name: members[name] for name in part} for part in parts]


def _rows_by_name(which: Sequence[str | None]) -> dict[str | None, list[int]]:
    rows: dict[str | None, list[int]] = {}
    for row, name in enumerate(which):
        rows.setdefault(name, []).append(row)
    return rows
