"""Many tuned states of one model, of which each text names its own."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefix_jax import inference
from prefix_jax.api.configuring import with_options
from prefix_jax.api.language_model import LanguageModel, name_of, rows_of
from prefix_jax.api.opening import load, load_model
from prefix_jax.api.tuned import Tuned
from prefix_jax.errors import UserError
from prefix_jax.models import prefix as pytree
from prefix_jax.training.session import Session


class Bank:
    """Many tuned states of one model by name; texts with different prefixes, prompts or LoRA share batches.

    Adapters, fine-tuned weights and labels by likelihood have batches of their own. Each text is that of its tuned
    state alone.

    >>> bank = pj.Bank(lm, {"gulls": tuned, "own": tuned.prefix})
    >>> texts = [pairs[0][0], pairs[1][0]]
    >>> bank.generate(texts, ["gulls", None], max_length=4) == [
    ...     tuned.generate(texts, max_length=4)[0], lm.generate(texts, max_length=4, beams=2)[1]]
    True
    """

    def __init__(self, model: LanguageModel | str, tuned: Mapping[str, Any] | None = None, *, slots: int = 1024):
        """Args:
          model: what `load_model` returned, or what it takes.
          tuned: by name, what `put` takes.
          slots: largest number of tuned states on the devices; the least recently used leave and return when needed.

        Raises:
          UserError: as `put`.
        """
        self.lm = model if isinstance(model, LanguageModel) else load_model(model)
        self._bank = inference.TunedBank(self.lm._session, slots)
        for name, one in (tuned or {}).items():
            self.put(name, one)

    @property
    def names(self) -> list[str]:
        """The names of the tuned states."""
        return self._bank.names

    def put(self, name: str, tuned: "Tuned | pytree.Prefix | str | os.PathLike") -> None:
        """Adds a tuned state, or replaces the one of that name; compiles nothing.

        Args:
          tuned: a run directory or `tuned/` folder, a `Tuned`, or a prefix of your own making.

        Raises:
          UserError: the name has a "+", or what is given is damaged or belongs to another model.
        """
        if isinstance(tuned, pytree.Prefix):
            tuned = Tuned.from_prefix(self.lm, tuned)
        elif isinstance(tuned, (str, os.PathLike)):
            tuned = load(Path(tuned), self.lm)
        if not isinstance(tuned, Tuned):
            raise UserError(f'"{name}" is {type(tuned).__name__}; give a folder, a Tuned, or a prefix')
        if tuned._session.base is not self.lm._session.base:
            raise UserError(f'"{name}" was loaded with a model of its own; load it as prefix_jax.load(folder, lm)')
        self._bank.put(name, inference.Tuned(tuned._session, tuned._kept, None))

    def remove(self, name: str) -> None:
        """Removes a tuned state.

        Raises:
          UserError: there is none of that name.
        """
        self._bank.remove(name)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def generate(
        self,
        texts: str | Sequence[str],
        which: str | Sequence[str | None] | None,
        *,
        progress: bool = False,
        **options: Any,
    ) -> Any:
        """Returns the text for a source with the tuned state that it names, or a list of them for a list.

        Each is read and decoded with the options of its own run.

        Args:
          texts: sources, or rows as mappings with the columns of the training data.
          which: a name for each text, or one for all; None: the bare model; "a+b": two prefixes side by side.
          progress: whether to show a progress bar.
          **options: of the section `decoding`, for all texts.

        Raises:
          UserError: a name is unknown, a text is empty or too long, or an option is out of its range.
        """
        if isinstance(texts, (str, Mapping)):
            return self.generate([texts], which, progress=progress, **options)[0]
        rows = rows_of(texts)
        names = [which] * len(rows) if which is None or isinstance(which, str) else list(which)
        if len(names) != len(rows):
            raise UserError(f"there are {len(rows)} texts and {len(names)} names; give one for each, or one for all")
        decoding = {f"decoding.{name}": value for name, value in options.items()}

        def changed(session: Session) -> Session:
            return session.of(with_options(session.config, decoding))

        return [found.text for found in self._bank.outputs(rows, names, changed, progress)]

    def __repr__(self) -> str:
        return f"Bank({name_of(self.lm._session)!r}, {len(self)} tuned states)"
