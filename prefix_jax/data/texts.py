"""Token ids -> text, as decoding prints it: what ends a text, what is taken off its end, which tokens stay in it."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from prefix_jax.data.tokens import Frame
from prefix_jax.errors import UserError, did_you_mean


class Printer:
    """Makes text of a model's new tokens.

    Attributes:
      ends: the tokens that end a text: the model's, the tokenizer's, and the first one of a target format's tail that
        is a special or added token.
      tail: the text that a target format puts between target and end, which is taken off; "": none.
      closed: whether the format's tail holds one of `ends`. Where it does not, a text is cut at the first `tail`.
      beyond: how many of the tail's tokens come after its end.
      skipped: the special tokens that a text loses.
    """

    def __init__(self, tokenizer: Any, frame: Frame, model_ends: Iterable[int], keep: str = ""):
        """Args:
          frame: the target format's own tokens.
          model_ends: the tokens that the model's configuration names as ends.
          keep: `data.keep_special_tokens`.

        Raises:
          UserError: `export` names what is not a token, or an end.
        """
        self.tokenizer, self.frame, self._keep = tokenizer, frame, keep
        added = added_tokens(tokenizer)
        known = [int(id) for id in model_ends]
        if tokenizer.eos_token_id is not None:
            known.append(int(tokenizer.eos_token_id))
        place = next((i for i, id in enumerate(frame.after) if id in added or id in known), None)
        self.closed = place is not None
        if place is not None:
            known.append(frame.after[place])
        self.ends = tuple(dict.fromkeys(known))
        self.beyond = 0 if place is None else len(frame.after) - place - 1
        between = list(frame.after if place is None else frame.after[:place])
        written = self._decode([between])[0] if between else ""
        # White space at the end of a text is taken off anyway; a line's end can close a text that no token closes.
        self.tail = written.strip() if self.closed or not (written.strip() or "\n" in written) else written.strip(" ")
        self.skipped = self._dropped() if keep else self._special

    def until_end(self, ids: Sequence[int]) -> list[int]:
        """Returns the tokens before the first that ends a text."""
        place = next((i for i, id in enumerate(ids) if id in self.ends), len(ids))
        return list(ids[:place])

    def texts(self, token_lists: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each list of new tokens, which hold no end."""
        if self._keep:
            token_lists = [[id for id in ids if id not in self.skipped] for ids in token_lists]
        return [self._trimmed(text.strip()) for text in self._decode(token_lists)]

    def _decode(self, token_lists: Sequence[Sequence[int]]) -> list[str]:
        if not len(token_lists):
            return []
        lists = [list(ids) for ids in token_lists]
        return self.tokenizer.batch_decode(
            lists, skip_special_tokens=not self._keep, clean_up_tokenization_spaces=False
        )

    def _trimmed(self, text: str) -> str:
        if not self.tail:
            return text
        text = text.removesuffix(self.tail) if self.closed else text.partition(self.tail)[0]
        return text.strip()

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(id for id, token in added_tokens(self.tokenizer).items() if token.special)

    def _dropped(self) -> frozenset[int]:
        """The special tokens that are left out of a text where `export` is given."""
        names = [name.strip() for name in self._keep.split(",") if name.strip()]
        if names == ["all"]:
            roles = (getattr(self.tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad", "unk"))
            own = {*self.ends, *self.frame.before, *self.frame.after, *(id for id in roles if id is not None)}
            return self._special & own
        added = {token.content: id for id, token in added_tokens(self.tokenizer).items()}
        for name in names:
            if name not in added:
                raise UserError(
                    f'data.keep_special_tokens has "{name}", which is not a special or added token of the tokenizer'
                    f"{did_you_mean(name, list(added))}"
                )
            if added[name] in self.ends:
                raise UserError(f'data.keep_special_tokens has "{name}", which ends a text; leave it out')
        return self._special - {added[name] for name in names}


def added_tokens(tokenizer: Any) -> dict[int, Any]:
    """Returns the tokens beside a tokenizer's learned vocabulary, the special ones among them, by id."""
    return getattr(tokenizer, "added_tokens_decoder", {})
