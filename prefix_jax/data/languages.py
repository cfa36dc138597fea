"""Languages of multilingual tokenizers (mBART, NLLB, M2M-100), which put the code of a text's language before or after
it, and often expect decoding to begin with the target's.
"""

from typing import Any, NamedTuple

from prefix_jax.errors import UserError


class Sides(NamedTuple):
    """The codes of the source's and the target's language, as the tokenizer spells them."""

    source: str
    target: str


class Begin(NamedTuple):
    """How a target language makes decoding begin: with which start token (None: the model's) and which forced token."""

    start: int | None = None
    first: int | None = None


def are_marked(tokenizer: Any) -> bool:
    """Returns whether a tokenizer marks the language of texts."""
    return hasattr(tokenizer, "set_src_lang_special_tokens") and hasattr(tokenizer, "set_tgt_lang_special_tokens")


def sides(tokenizer: Any, source: str, target: str) -> Sides:
    """Returns the languages of the options, or of the tokenizer's configuration where an option is empty.

    Raises:
      UserError: a language is missing or unknown.
    """
    if not are_marked(tokenizer):
        name = "source" if source else "target"
        raise UserError(f"data.{name}_language is set, but this model's tokenizer does not mark languages; remove it")
    found = Sides(source or tokenizer.src_lang or "", target or tokenizer.tgt_lang or "")
    for name, code in found._asdict().items():
        if not code:
            raise UserError(
                f"this model's tokenizer marks the language of a text; set --config.data.{name}_language, such as "
                f"{tokenizer.src_lang}"
            )
        if _id(tokenizer, code) is None:
            raise UserError(
                f'data.{name}_language "{code}" is not a language of this model\'s tokenizer; it spells them as in '
                f'"{tokenizer.src_lang}"'
            )
    return found


def frame(tokenizer: Any, side: str, code: str) -> tuple[list[int], list[int]]:
    """Returns the ids that a tokenizer puts before and after a text; `side` is "source" or "target"."""
    before = tokenizer.src_lang
    change = tokenizer.set_src_lang_special_tokens if side == "source" else tokenizer.set_tgt_lang_special_tokens
    change(code)
    found = list(tokenizer.prefix_tokens), list(tokenizer.suffix_tokens)
    tokenizer.set_src_lang_special_tokens(before)
    return found


def begin(tokenizer: Any, code: str) -> Begin:
    """Returns how decoding begins for a target language: with its code as the first token where that is before a text,
    and in place of the start token where it is after one, as transformers' `generate` and shifted labels have it.
    """
    language = _id(tokenizer, code)
    before, after = frame(tokenizer, "target", code)
    return Begin(language if language in after else None, language if language in before else None)


def template(tokenizer: Any, side: str, code: str) -> str:
    """Returns the format of a side: the tokens around a text as placeholders."""
    before, after = ("".join(_placeholder(tokenizer, id) for id in ids) for ids in frame(tokenizer, side, code))
    return f"{before}{{{side}}}{after}"


def _placeholder(tokenizer: Any, token: int) -> str:
    roles = {tokenizer.bos_token_id: "bos", tokenizer.eos_token_id: "eos"}
    return f"{{{roles.get(token) or tokenizer.convert_ids_to_tokens(token)}}}"


def _id(tokenizer: Any, code: str) -> int | None:
    """Returns the id of a language's token; None: there is none."""
    spelled = getattr(tokenizer, "get_lang_token", lambda code: code)  # M2M-100 spells "fr" as "__fr__"
    try:
        token = tokenizer.convert_tokens_to_ids(spelled(code))
    except KeyError:
        return None
    return None if token is None or token == tokenizer.unk_token_id else int(token)
