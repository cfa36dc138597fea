"""`prefix-jax chat --workdir DIR` (or `--tuned DIR`, or `--model NAME` for a model without anything tuned)

Keeps a conversation with a model by the chat template of its tokenizer; the reply appears as it is generated. A line is
a message. /reset begins anew, /system TEXT sets the system prompt, /exit (or Ctrl-D) ends; Ctrl-C ends a reply.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli
from prefix_jax.errors import UserError

_HELP = "/reset begins anew, /system TEXT sets the system prompt, /exit ends; Ctrl-C ends a reply"
# New tokens of a reply where no option says.
_REPLY = 256


def define_flags() -> None:
    cli.define_path("workdir", None, "The run directory of a training run.")
    cli.define_path("tuned", None, "A folder with a tuned prefix, in place of --workdir.")
    cli.define_path("model", None, "A model without anything tuned: a name, a directory, a hub id or a GGUF file.")
    flags.DEFINE_string("system", None, "The system prompt.")
    cli.define_overrides()


def main(options: flags.FlagValues) -> None:
    given = [name for name in ("workdir", "tuned", "model") if options[name].value]
    if len(given) != 1:
        said = " and ".join(f"--{name}" for name in given)
        raise UserError(f"{said} are given; give one of them" if given else "give --workdir, --tuned or --model")
    cli.enable_compile_cache()
    chat = Chat(_speaker(options), options.system)
    chat.check()
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (lines can be edited)
        print(_HELP, file=sys.stderr)
    for line in _lines():
        if line.split()[:1] == ["/exit"]:
            break
        try:
            for piece in chat.said(line):
                print(cli.for_stdout(piece), end="", flush=True)
            print(flush=True)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print(" ...", flush=True)


def _speaker(options: flags.FlagValues) -> Any:
    """Returns what replies: a model, tuned or not."""
    from prefix_jax import api

    changes = cli.overrides(options)
    changes.setdefault("decoding.max_length", _REPLY)
    if options.model is None:
        return api.load(Path(options.tuned or options.workdir), options=changes)
    return api.load_model(options.model, options=changes)


def _lines() -> Iterator[str]:
    """Yields the user's messages: lines that are not empty."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return
        if line.strip():
            yield line


class Chat:
    """A conversation: its messages so far, and how it goes on."""

    def __init__(self, speaker: Any, system: str | None = None):
        self._speaker, self._system = speaker, system
        self._messages: list[dict[str, str]] = []

    def check(self) -> None:
        """Raises UserError unless the model has a chat template."""
        from prefix_jax.serving import conversation

        conversation.prompt(self._speaker._session, [{"role": "user", "content": "x"}])

    def said(self, line: str) -> Iterator[str]:
        """Yields the reply to a message, or the answer to a command, piece by piece.

        A reply that is stopped stays in the conversation as far as it came.

        Raises:
          UserError: the conversation is too long, or the command is unknown; the message is not part of it.
        """
        if line.startswith("/"):
            yield self._done(line)
            return
        head = [] if self._system is None else [{"role": "system", "content": self._system}]
        asked = [*self._messages, {"role": "user", "content": line}]
        reply = ""
        pieces = self._speaker.chat([*head, *asked], stream=True)
        try:
            for piece in pieces:
                reply += piece
                yield piece
        except UserError:
            raise
        except BaseException:
            self._messages = [*asked, {"role": "assistant", "content": reply}]
            raise
        self._messages = [*asked, {"role": "assistant", "content": reply}]

    def _done(self, line: str) -> str:
        command, _, rest = line.partition(" ")
        if command == "/reset":
            self._messages = []
            return "(begun anew)"
        if command == "/system" and rest.strip():
            self._system, self._messages = rest.strip(), []
            return "(begun anew with this system prompt)"
        raise UserError(f'there is no "{command}"; {_HELP}')


if __name__ == "__main__":
    cli.run(main, define_flags)
