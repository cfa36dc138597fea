"""Conversations: messages of roles, read from rows in the forms in which they are published, and as JSON text.

A record's source is the JSON of its conversation up to the last assistant turn, and its target the text of that turn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefix_jax.data.files import ABSENT, EmptyField, Row, field_of
from prefix_jax.data.records import normal_text
from prefix_jax.disk import is_deep
from prefix_jax.errors import UserError, did_you_mean

ASSISTANT, SYSTEM, USER = "assistant", "system", "user"
# Columns of a list of messages, and of what is asked and what is answered.
LISTS = ("messages", "conversations", "conversation")
_ASKED, _ANSWERS = "prompt", ("response", "completion")
# The roles of ShareGPT's form.
_ROLES = {
    "human": USER, "gpt": ASSISTANT, "chatgpt": ASSISTANT, "bing": ASSISTANT, "bard": ASSISTANT, "model": ASSISTANT,
    "observation": "tool", "function_call": ASSISTANT,
}  # fmt: skip
# Columns that a chat template reads beside the messages.
_BESIDE = ("tools", "documents", "chat_template_kwargs")

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages with what a chat template reads beside them.

    Attributes:
      messages: each with a role, and a content or tool calls.
      beside: `tools`, `documents` and `chat_template_kwargs`, where there are any.
    """

    messages: tuple[Message, ...]
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def turns(self) -> list[int]:
        """The places of the assistant's messages."""
        return [i for i, message in enumerate(self.messages) if message["role"] == ASSISTANT]

    def until(self, end: int) -> "Conversation":
        """Returns the conversation with its first `end` messages."""
        return replace(self, messages=self.messages[:end])

    def without_answer(self) -> "Conversation":
        """Returns the conversation without an assistant's message at its end."""
        return self.until(-1) if self.messages[-1]["role"] == ASSISTANT else self

    def text(self) -> str:
        """Returns the JSON text that `parse` reads."""
        return json.dumps({"messages": list(self.messages), **self.beside}, ensure_ascii=False)


def parse(text: str) -> Conversation:
    """Returns the conversation of a source: of JSON text, or one whose only message is a user's text."""
    try:
        found = json.loads(text) if text.startswith('{"messages": [') else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Conversation(({"role": USER, "content": text.strip()},))
    messages = found.pop("messages")
    return Conversation(tuple(messages), found)


def spoken(message: Message) -> str:
    """Returns the text of a message; of one that only calls tools, the calls as JSON."""
    calls = message.get("tool_calls")
    return message.get("content") or (json.dumps(calls, ensure_ascii=False) if calls else "")


def transcript(text: str) -> list[tuple[str, str]] | None:
    """Returns the roles and texts of a source that is a conversation as JSON; None for any other text."""
    if not text.startswith('{"messages": ['):
        return None
    messages = parse(text).messages
    if not all(isinstance(message, Mapping) and isinstance(message.get("role"), str) for message in messages):
        return None
    return [(message["role"], str(spoken(message))) for message in messages]


def is_conversation(columns: Mapping[str, Any]) -> bool:
    """Returns whether a row is a conversation by its columns: a list of messages, or a prompt that is one."""
    lists = [columns.get(name) for name in (*LISTS, _ASKED)]
    return any(isinstance(one, (list, tuple)) and one and isinstance(one[0], Mapping) for one in lists)


def of_row(row: Row, source: str = "source", target: str = "target", unicode: str = "") -> Conversation:
    """Returns the conversation of a row, which need not have an answer.

    Args:
      row: with a list of messages (`role` and `content`, or ShareGPT's `from` and `value`), or with a prompt and a
        response, each a text or a list of messages; `system` and what a chat template reads may stand beside them.
      source: a column of a list of messages or of a prompt, read before those of the usual names.
      target: a column of a response, read before those of the usual names.
      unicode: the normalisation form of all texts; "": as they are.

    Raises:
      UserError: there are no such columns, or a message is no message; `EmptyField` if one has no text.
    """
    columns = row[1]
    if is_deep(columns):
        raise UserError(f"{row[0]} is nested too deeply; correct the row.")
    messages = _messages(row, source, target)
    system = field_of(columns, "system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != SYSTEM:
        messages = [{"role": SYSTEM, "content": system}, *messages]
    beside = {name: _without_none(_of_json(columns.get(name))) for name in _BESIDE}
    if (options := beside["chat_template_kwargs"]) and not isinstance(options, dict):
        raise UserError(
            f'{row[0]} has "chat_template_kwargs" that are {type(options).__name__}; give an object of names and '
            "values."
        )
    whole = Conversation(tuple(messages), {name: value for name, value in beside.items() if value})
    return parse(json.dumps(_normalised(json.loads(whole.text()), unicode), ensure_ascii=False)) if unicode else whole


def answered(row: Row, source: str = "source", target: str = "target", unicode: str = "") -> Conversation:
    """Does what `of_row` does; the conversation ends with its last assistant turn.

    Raises:
      UserError: as `of_row`; `EmptyField` if there is no assistant turn.
    """
    found = of_row(row, source, target, unicode)
    if not found.turns:
        raise EmptyField(f'{row[0]} has no message of the role "{ASSISTANT}"; add one or remove the row.')
    return found.until(found.turns[-1] + 1)


def _messages(row: Row, source: str, target: str) -> list[dict[str, Any]]:
    where, columns = row
    for name in (source, *LISTS):
        value = _listed(field_of(columns, name))
        if value is not None:
            both = name == source and field_of(columns, target) is not ABSENT
            return _checked(value, where, name) + (_side(row, target, ASSISTANT) if both else [])
    asked, answer = (
        next((name for name in names if field_of(columns, name) is not ABSENT), None)
        for names in ((source, _ASKED), (target, *_ANSWERS))
    )
    if asked is None:
        hint = did_you_mean(LISTS[0], [str(name) for name in columns])
        raise UserError(
            f'{where} has no column "{LISTS[0]}", a list of messages, and no "{_ASKED}" with a "{_ANSWERS[0]}" '
            f"(--config.data.source_column names another){hint}"
        )
    return _side(row, asked, USER) + ([] if answer is None else _side(row, answer, ASSISTANT))


def _side(row: Row, name: str, role: str) -> list[dict[str, Any]]:
    """Returns the messages of a prompt or a response: those of a list, or a text as one."""
    value = field_of(row[1], name)
    found = _listed(value)
    return _checked([{"role": role, "content": value}] if found is None else found, row[0], name)


def _listed(value: Any) -> list[Any] | None:
    """Returns a list of messages, also of JSON text, as CSV files hold it; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        value = _of_json(value)
    if isinstance(value, tuple) or (hasattr(value, "tolist") and getattr(value, "ndim", 0)):
        return list(value)
    return value if isinstance(value, list) else None


def _of_json(value: Any) -> Any:
    """Returns what a JSON text holds; other values as they are."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _checked(found: Sequence[Any], where: str, name: str) -> list[dict[str, Any]]:
    if not found:
        raise EmptyField(f'{where} has an empty "{name}"; fill it in or remove the row.')
    return [_message(one, f'message {number} of "{name}" in {where}') for number, one in enumerate(found, 1)]


def _message(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UserError(f'{where} is {type(given).__name__}; give {{"role": "user", "content": "..."}}.')
    message = _without_none(given)
    if "role" not in message and "from" in message:
        message = _of_sharegpt(message, where)
    role = message.get("role")
    if not isinstance(role, str):
        raise UserError(f'{where} has no "role"; give {{"role": "user", "content": "..."}}.')
    content = message.get("content")
    if isinstance(content, list):
        content = message["content"] = "".join(_part(part, where) for part in content)
    if content is not None and not isinstance(content, str):
        raise UserError(f'{where} has a "content" that is {type(content).__name__}, not text; correct the row.')
    if role in (USER, ASSISTANT) and not (content or "").strip() and not message.get("tool_calls"):
        raise EmptyField(f'{where} has an empty "content"; fill it in or remove the row.')
    return message


def _of_sharegpt(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    said, value = str(message["from"]), message.get("value")
    rest = {key: one for key, one in message.items() if key not in ("from", "value")}
    found = {"role": _ROLES.get(said, said), **rest}
    if said != "function_call":
        return {**found, "content": value}
    call = _of_json(value)
    if not isinstance(call, dict) or "name" not in call:
        raise UserError(f'{where} is a "function_call" without a name and arguments as JSON; correct the row.')
    return {**found, "tool_calls": [{"type": "function", "function": call}]}


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type", "object") if isinstance(part, Mapping) else type(part).__name__
    raise UserError(f'{where} has a part of type "{kind}"; only texts are read.')


def _without_none(value: Any) -> Any:
    """Returns a value without the empty fields that tables add to objects, as a copy in JSON's types."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(one) for key, one in value.items() if one is not None}
    if isinstance(value, (list, tuple)) or (hasattr(value, "tolist") and getattr(value, "ndim", 0)):
        return [_without_none(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _normalised(value: Any, form: str) -> Any:
    if isinstance(value, str):
        return normal_text(value, form)
    if isinstance(value, dict):
        return {key: _normalised(one, form) for key, one in value.items()}
    return [_normalised(one, form) for one in value] if isinstance(value, list) else value
