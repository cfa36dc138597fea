"""Detokenisation of generated ids: end tokens, the format tail to strip, and the special tokens to keep."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from prefix_jax.data.tokens import Frame
from prefix_jax.errors import UserError, did_you_mean


class Printer:
    """Detokenises generated tokens.

    Attributes:
      ends: end tokens: the model's, the tokenizer's, and the first special or added token of the target format's
        tail.
      tail: text of the target format between target and end, which is stripped; "": none.
      closed: whether the format's tail contains one of `ends`. Otherwise a text is cut at the first `tail`.
      beyond: number of tail tokens after the end token.
      skipped: special tokens removed from a text.
    """

    def __init__(self, tokenizer: Any, frame: Frame, model_ends: Iterable[int], keep: str = ""):
        """Args:
          frame: tokens of the target format.
          model_ends: end tokens of the model's configuration.
          keep: `data.keep_special_tokens`.

        Raises:
          UserError: `keep` names an unknown token or an end token.
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
        # Trailing white space is stripped anyway; a line break can end a text that no token ends.
        self.tail = written.strip() if self.closed or not (written.strip() or "\n" in written) else written.strip(" ")
        self.skipped = self._dropped() if keep else self._special

    def until_end(self, ids: Sequence[int]) -> list[int]:
        """Returns the tokens before the first end token."""
        place = next((i for i, id in enumerate(ids) if id in self.ends), len(ids))
        return list(ids[:place])

    def texts(self, token_lists: Sequence[Sequence[int]]) -> list[str]:
        """Detokenises lists of new tokens that contain no end token."""
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
        """Special tokens removed from a text when `keep` is given."""
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
                raise UserError(f'data.keep_special_tokens has "{name}", which ends a text; remove it')
        return self._special - {added[name] for name in names}


def added_tokens(tokenizer: Any) -> dict[int, Any]:
    """Returns the added tokens of a tokenizer, including special ones, by id."""
    return getattr(tokenizer, "added_tokens_decoder", {})
