"""A conversation by the model's own chat template, as the token ids of a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefix_jax.data.conversations import of_row
from prefix_jax.training.session import Session

_NAME = "the conversation"


def prompt(
    session: Session,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    limit: int = 0,
) -> list[int]:
    """Returns the token ids of a conversation up to where the assistant's next message begins.

    Args:
      messages: with "role" and "content", a text or a list of parts of type text.
      tools: what the template reads of them.
      limit: tokens that may be returned; earlier turns are left out to fit; 0: any number.

    Raises:
      UserError: the model has no template, it refuses the messages, a message has no role or is not text, or the last
        turn alone does not fit.
    """
    row = (_NAME, {"messages": list(messages), **({"tools": list(tools)} if tools else {})})
    return session.chat.prompt(of_row(row), _NAME, limit)[0]
