"""What stands around a document and the texts after it: a system message of a chat, or plain text."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from prefix_jax import tasks
from prefix_jax.data import chat_template
from prefix_jax.data.conversations import SYSTEM, USER
from prefix_jax.data.tokens import encoded_texts
from prefix_jax.training.session import Session

# A text that no template has.
_PROBE = "zvwkq"
_PLAIN = {"data.source_format": "\n\nQuestion: {source}\nAnswer:", "data.target_format": " {target}{eos}"}


class Frame(NamedTuple):
    """A document's token ids, and the options under which texts follow it.

    Attributes:
      ids: of the document with what stands around it.
      options: by dotted name: the task of questions and answers, and their formats or chat template.
    """

    ids: list[int]
    options: Mapping[str, Any]


def framed(session: Session, text: str, chat: bool | None = None) -> Frame:
    """Returns a document's frame.

    In a chat, the document is the system message, and the template of later messages goes on after it. Where the
    template has no system message, the document stands before the chat as plain text.

    Args:
      chat: whether questions are turns of a chat; None: where the tokenizer has a chat template.
    """
    asked = session.config.data.chat_template
    own = chat_template.read(asked) or getattr(session.tokenizer, "chat_template", None)
    if chat is False or (chat is None and not own):
        return Frame(_plain_ids(session, text), {"data.task": tasks.ANY_ROWS, **_PLAIN})
    template = session.tokenizer.get_chat_template(chat_template.read(asked) or None) if own else ""
    options = {"data.task": tasks.CHAT, "data.chat_template": asked}
    if template and (later := _continued(session.tokenizer, template)):
        document = _rendered(session.tokenizer, template, [{"role": SYSTEM, "content": text}])
        return Frame(_ids(session, document), {**options, "data.chat_template": later})
    return Frame(_plain_ids(session, text), options)


def _plain_ids(session: Session, text: str) -> list[int]:
    """Returns a text's ids after the token that the tokenizer begins texts with, if it does."""
    tokenizer = session.tokenizer
    begins = list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]
    return [*([tokenizer.bos_token_id] if begins else []), *_ids(session, text)]


def _ids(session: Session, text: str) -> list[int]:
    return encoded_texts(session.tokenizer, [text], "source")[0]


def _continued(tokenizer: Any, template: str) -> str:
    """Returns the template of messages after a system message, without that message; "" where there is none.

    Many templates add a system message of their own to a conversation without one, which would follow the document.
    """
    system, user = {"role": SYSTEM, "content": _PROBE}, {"role": USER, "content": _PROBE}
    try:
        head = _rendered(tokenizer, template, [system])
        whole = _rendered(tokenizer, template, [system, user], prompt=True)
        set_first = f"{{% set messages = [{{'role': '{SYSTEM}', 'content': '{_PROBE}'}}] + messages %}}"
        later = f"{set_first}{{% set whole %}}{template}{{% endset %}}{{{{ whole[{len(head)}:] }}}}"
        if _PROBE in head and whole == head + _rendered(tokenizer, later, [user], prompt=True):
            return later
    # Jinja's errors, and those of a template that refuses the roles.
    except Exception:
        return ""
    return ""


def _rendered(tokenizer: Any, template: str, messages: list[dict[str, str]], prompt: bool = False) -> str:
    named = dict(chat_template=template, tokenize=False, add_generation_prompt=prompt)
    return tokenizer.apply_chat_template(messages, **named)
