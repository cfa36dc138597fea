"""A conversation in the model's own chat template, as the token ids of a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefix_jax.errors import UserError


def prompt(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
) -> tuple[list[int], str]:
    """Returns the token ids, and the text, of a conversation up to where the assistant's next message begins.

    Args:
      messages: with "role" and "content", a text or a list of parts of type text.

    Raises:
      UserError: the model has no template, it refuses the messages, or a message has no role or is not text.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("this model has no chat template; use one that was tuned to chat, or generate text instead")
    if not messages:
        raise UserError("the conversation has no messages; give it one")
    for message in messages:
        if not isinstance(message.get("role"), str):
            raise UserError('a message has no "role"; give it system, user or assistant')
    plain = [{**message, "content": _content(message.get("content"))} for message in messages]
    try:
        text = tokenizer.apply_chat_template(plain, tools=tools, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise anything
        raise UserError(f"the model's chat template refuses the messages: {error}") from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]), text


def _content(given: Any) -> Any:
    """Returns a message's text; parts of type text are joined."""
    if not isinstance(given, list):
        return given
    parts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in given]
    if any(not isinstance(part, str) for part in parts):
        raise UserError("a message has a part that is not text, which this model cannot read")
    return "\n".join(str(part) for part in parts)
