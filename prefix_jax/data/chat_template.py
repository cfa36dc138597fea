"""A tokenizer's chat template: token ids of conversations, and which of them an assistant wrote.

A template with `{% generation %}` marks what an assistant writes; transformers' `return_assistant_tokens_mask` reads
it. Of one without, a turn is what the conversation through that turn has beyond the prompt before it. Where a template
writes an earlier turn otherwise than a last one (without its thinking, for instance), no one text has all turns as they
are generated, and each turn becomes an example of its own.
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefix_jax.data.conversations import ASSISTANT, SYSTEM, USER, Conversation
from prefix_jax.data.text_files import read_text
from prefix_jax.errors import UserError, did_you_mean, first_line

OPTION = "--config.data.chat_template"
# Version of cached ids of conversations: increment it whenever the same conversations give other arrays.
VERSION = 1
_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
# A conversation whose answer no template has in it.
_PROBE = Conversation(({"role": USER, "content": "qxzj"}, {"role": ASSISTANT, "content": "zvwkq"}))


class Example(NamedTuple):
    """Token ids of a conversation, and whether an assistant wrote each."""

    ids: list[int]
    trained: np.ndarray  # bool [tokens]


def read(option: str) -> str:
    """Returns the template that `data.chat_template` names: of a file, its text; others as they are.

    Raises:
      UserError: the file cannot be read.
    """
    if not option or "{%" in option or "{{" in option:
        return option
    path = os.path.expanduser(option)
    named = os.path.isfile(path) or os.sep in option or bool(os.path.splitext(option)[1])
    return read_text(Path(path), "a chat template") if named else option


class ChatTemplate:
    """A chat template with the tokenizer of its texts."""

    def __init__(self, tokenizer: Any, template: str = ""):
        """Args:
          tokenizer: transformers'.
          template: Jinja, or the name of one of the tokenizer's templates; "": the tokenizer's own.

        Raises:
          UserError: the tokenizer has no chat template, or is none that knows the characters of its tokens.
        """
        if not template and not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"the model's tokenizer has no chat template; name a file with one by {OPTION}=FILE, or use a model "
                "that has one, such as an Instruct model"
            )
        if not getattr(tokenizer, "is_fast", False):
            raise UserError("the model's tokenizer does not say where its tokens are in a text; give a tokenizer.json")
        own = getattr(tokenizer, "chat_template", None)
        names = list(own) if isinstance(own, dict) else []
        if template and template not in names and "{" not in template:
            hint = did_you_mean(template, names) if names else ""
            raise UserError(f'{OPTION}="{template}" is neither a file nor a template of the tokenizer{hint}')
        self.tokenizer, self.template = tokenizer, template or None

    def prompt(self, conversation: Conversation, where: str, limit: int = 0) -> tuple[list[int], bool]:
        """Returns the ids of a conversation with the beginning of an assistant's turn, and whether turns were left out.

        Args:
          where: the conversation's place, for messages.
          limit: tokens that may be returned; the first turns after the system's are left out to fit; 0: any number.

        Raises:
          UserError: the template refuses the conversation, or its last turn alone does not fit.
        """
        messages, shortened = conversation.messages, False
        while True:
            own = Conversation(messages, conversation.beside)
            ids = self._ids(self._text(own, where, prompt=True))
            if not limit or len(ids) <= limit:
                return ids, shortened
            messages, shortened = _without_first(messages), True
            if not messages:
                raise UserError(
                    f"{where} has {len(ids)} tokens without its earlier turns, over the {limit} allowed; raise "
                    "--config.data.max_source_length, up to the model's context length, or shorten it"
                )

    def examples(self, conversation: Conversation, where: str, apart: bool = False) -> list[Example]:
        """Returns what is trained on a conversation that ends with an assistant's turn: one example, or one a turn.

        Args:
          where: the conversation's place, for messages.
          apart: whether each assistant turn is an example of its own in any case.

        Raises:
          UserError: the template refuses the conversation, or it does not say what an assistant writes.
        """
        if not self._is_marked(conversation):
            return self._derived(conversation, where, apart)
        if not apart:
            return [self._marked(conversation, where)]
        found = [self._marked(conversation.until(place + 1), where) for place in conversation.turns]
        return [Example(one.ids, last_run(one.trained)) for one in found]

    @functools.cached_property
    def ending(self) -> str:
        """The text that follows an assistant's text: that of an end token, or white space where there is none."""
        try:
            found = self._text(_PROBE, "").rpartition(_PROBE.messages[1]["content"])[2]
        except UserError:  # a template that wants other conversations
            return ""
        return found.strip() or found

    def _is_marked(self, conversation: Conversation) -> bool:
        tools = conversation.beside.get("tools")
        return bool(_MARKS.search(self.tokenizer.get_chat_template(self.template, tools)))

    def _marked(self, conversation: Conversation, where: str) -> Example:
        found = self._applied(conversation, where, return_dict=True, return_assistant_tokens_mask=True)
        trained = np.asarray(found["assistant_masks"], bool)
        if not trained.any():
            raise UserError(f"{where}: the chat template's {{% generation %}} marks nothing that an assistant writes")
        return Example(list(found["input_ids"]), trained)

    def _derived(self, conversation: Conversation, where: str, apart: bool) -> list[Example]:
        turns = []
        for place in conversation.turns:
            before = self._text(conversation.until(place), where, prompt=True)
            after = self._text(conversation.until(place + 1), where)
            if not after.startswith(before) or self._lead:
                raise UserError(
                    f"{where}: the chat template begins a prompt for an assistant's turn otherwise than that turn in a "
                    "conversation, so that it does not say which tokens an assistant writes; name one that has "
                    f"{{% generation %}} by {OPTION}=FILE"
                )
            turns.append((after, len(before), self._end(after, len(before))))
        whole = turns[-1][0]
        if not apart and all(whole.startswith(after[:end]) for after, _, end in turns):
            return [self._spanned(whole, [(start, end) for _, start, end in turns])]
        return [self._spanned(after, [(start, end)]) for after, start, end in turns]

    def _end(self, text: str, start: int) -> int:
        """Returns where an assistant's turn ends: after its end token; white space ends it where there is none."""
        stripped = text[start:].rstrip()
        ends = (*filter(None, [self.ending.strip()]), *self._added)
        return start + len(stripped) if stripped.endswith(ends) else len(text)

    @functools.cached_property
    def _lead(self) -> str:
        """The text between a prompt and an assistant's text, of a template that writes no prompt for a turn."""
        if "add_generation_prompt" in (self.tokenizer.get_chat_template(self.template) or ""):
            return ""
        before, after = self._text(_PROBE.until(1), "", prompt=True), self._text(_PROBE, "")
        return after[len(before) :].partition(_PROBE.messages[1]["content"])[0].strip()

    @functools.cached_property
    def _added(self) -> tuple[str, ...]:
        return tuple(str(token) for token in self.tokenizer.added_tokens_decoder.values() if str(token).strip())

    def _spanned(self, text: str, spans: Sequence[tuple[int, int]]) -> Example:
        """Returns the ids of a text; those with a character in a span are trained."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        first, last = np.asarray(found["offset_mapping"], np.int64).reshape(-1, 2).T
        trained = np.zeros(len(first), bool)
        for start, end in spans:
            trained |= (first < end) & (last > start)
        return Example(list(found["input_ids"]), trained)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _text(self, conversation: Conversation, where: str, prompt: bool = False) -> str:
        return self._applied(conversation, where, tokenize=False, add_generation_prompt=prompt)

    def _applied(self, conversation: Conversation, where: str, **options: Any) -> Any:
        beside: Mapping[str, Any] = conversation.beside
        named = {**beside.get("chat_template_kwargs", {}), "chat_template": self.template, **options}
        named |= {name: beside[name] for name in ("tools", "documents") if name in beside}
        try:
            return self.tokenizer.apply_chat_template([dict(one) for one in conversation.messages], **named)
        # Jinja's errors, and those of what a template computes: TypeError, KeyError, ValueError ...
        except Exception as error:
            raise UserError(
                f"{where}: the chat template cannot write this conversation ({first_line(error).rstrip('.')}); correct "
                f"it, or name another template by {OPTION}=FILE"
            ) from None


def last_run(trained: np.ndarray) -> np.ndarray:
    """Returns the mask of the last run of what is trained: the last assistant turn."""
    places = np.flatnonzero(trained)
    gaps = np.flatnonzero(np.diff(places) > 1)
    start = places[gaps[-1] + 1] if len(gaps) else places[0]
    return trained & (np.arange(len(trained)) >= start)


def _without_first(messages: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Returns messages without the first turns after the system's, up to the next of a user; () if there is none."""
    head = [message for message in messages[:1] if message["role"] == SYSTEM]
    rest = messages[len(head) :]
    later = next((i for i, message in enumerate(rest) if i and message["role"] == USER), None)
    return () if later is None else (*head, *rest[later:])
