"""The tuned states that a server knows: given by name, or found in a folder."""

import threading
from pathlib import Path

from prefix_jax import inference
from prefix_jax.decoding.bank import PLUS
from prefix_jax.decoding.shelf import OF_ROWS, joined
from prefix_jax.errors import UserError
from prefix_jax.models.prefix import Prefix
from prefix_jax.serving.engine import Engine
from prefix_jax.serving.protocol import Refused
from prefix_jax.training.session import Session
from prefix_jax.tuning import store


class Adapters:
    """Tuned states by name. Those in `folder` are loaded when they are first asked for."""

    def __init__(self, session: Session, engine: Engine, folder: Path | None = None):
        self.session, self._engine = session, engine
        self.folder = None if folder is None else folder.resolve()
        self._tuned: dict[str, inference.Tuned] = {}
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """Returns the names of tuned states, also of those in the folder that are not loaded yet."""
        found = [] if self.folder is None else sorted(p.name for p in self.folder.iterdir() if _is_tuned(p))
        with self._lock:
            return list(dict.fromkeys([*self._tuned, *found]))

    def load(self, name: str, folder: Path) -> None:
        """Loads a tuned state from a run directory or its `tuned/` folder; replaces the one of that name.

        Raises:
          UserError: there is none, it belongs to another model, or as `add`.
        """
        _check_name(name)
        self.add(name, opened(folder, self.session))

    def add(self, name: str, tuned: inference.Tuned) -> None:
        """Adds a tuned state of the model, or replaces the one of that name.

        Raises:
          UserError: it is not of prefixes, prompts and LoRA, does not fit, or the name has a "+" or "/".
        """
        _check_name(name)
        others = [collection for collection in tuned.kept.collections if collection not in OF_ROWS]
        if others:
            method = tuned.session.config.method
            said = f'"{name}" holds {method}, and the server takes prefixes, prompts and LoRA'
            raise UserError(f"{said}; leave it out, or convert or merge it into a model of its own")
        with self._lock:
            self._engine.forget(name)
            self._engine.put(name, tuned.kept)
            self._tuned[name] = tuned

    def load_allowed(self, name: str, path: str) -> None:
        """Loads a tuned state from inside the folder.

        Raises:
          Refused: the path is outside the folder, or there is no folder.
          UserError: as `load`.
        """
        if self.folder is None:
            raise Refused("adapters can be loaded from the server's --tuned_dir only, and it has none", 403)
        folder = (self.folder / path).resolve()
        if not folder.is_relative_to(self.folder):
            raise Refused(f"{path} is outside the server's --tuned_dir; move it there", 403)
        self.load(name, folder)

    def remove(self, name: str) -> None:
        """Removes a tuned state.

        Raises:
          Refused: there is none of that name.
          UserError: it is in use.
        """
        with self._lock:
            if name not in self._tuned:
                raise _unknown(name)
            self._engine.forget(name)
            del self._tuned[name]

    def ready(self, name: str) -> Session:
        """Puts a tuned state, or several prefixes as "a+b", into the engine unless it is there; returns the session of
        the first, which says how its sources are read.

        Raises:
          Refused: there is none of that name.
          UserError: as `load`, or one of several is not a prefix alone.
        """
        with self._lock:
            members = [self._of(part) for part in name.split(PLUS)]
            if name not in self._engine.bank:
                self._engine.put(name, members[0].kept if len(members) == 1 else self._joined(name, members))
            return members[0].session

    def _joined(self, name: str, members: list[inference.Tuned]) -> Prefix:
        prefixes = [one.kept.prefix for one in members if one.kept.prefix is not None and not one.kept.collections]
        if len(prefixes) < len(members):
            raise Refused(f'"{name}" joins what are not prefixes alone; join prefixes only')
        return joined(prefixes, self.session.model_config)

    def _of(self, name: str) -> inference.Tuned:
        if name not in self._tuned:
            folder = None if self.folder is None or "/" in name or name.startswith(".") else self.folder / name
            if folder is None or not _is_tuned(folder):
                raise _unknown(name)
            self.load(name, folder)
        return self._tuned[name]


def opened(folder: Path, session: Session) -> inference.Tuned:
    """Returns what was tuned for the model of a session.

    Raises:
      UserError: there is none, or it belongs to another model.
    """
    return inference.open_configured(folder, inference.configured(folder, inference.of_model(session)), session)


def _check_name(name: str) -> None:
    if not name or PLUS in name or "/" in name:
        raise UserError(f'"{name}" cannot be the name of a tuned state; give it a name without "{PLUS}" and "/"')


def _is_tuned(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    try:
        store.read_about(folder)
    except UserError:
        return False
    return True


def _unknown(name: str) -> Refused:
    return Refused(f'the model "{name}" does not exist; GET /v1/models lists what does', 404, "model_not_found")
