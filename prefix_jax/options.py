"""Options of a configuration: their form, their ranges, and the checks that several rooms share."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefix_jax.errors import UserError, did_you_mean

# A ConfigDict or one of its sections: which options it has, and of which types, is known only when it runs.
Config = Any

# The ranges of numbers, by the words of the error message.
RANGES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda x: x >= 1,
    "at least 0": lambda x: x >= 0,
    "above 0": lambda x: x > 0,
    "at least 0 and below 1": lambda x: 0 <= x < 1,
}


def check_range(name: str, value: float, words: str) -> None:
    """Raises UserError if the number of an option is not finite or is outside its range, a key of `RANGES`."""
    if not (math.isfinite(value) and RANGES[words](value)):
        raise UserError(f"{name} is {value}; it must be {words if math.isfinite(value) else 'a finite number'}")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raises UserError if the value of an option is not one of those known."""
    if value not in known:
        raise UserError(f'{name} is "{value}"{did_you_mean(str(value), tuple(known))}')


def several(name: str, value: str, known: Sequence[str]) -> tuple[str, ...]:
    """Returns the parts of a comma-separated option; "all" stands for every known one.

    Raises:
      UserError: a part is unknown.
    """
    parts = tuple(known) if value == "all" else tuple(part.strip() for part in value.split(","))
    for part in parts:
        if part not in known:
            raise UserError(f'{name} has "{part}"{did_you_mean(part, tuple(known))}')
    return parts


def flat(tree: Any, above: str = "") -> dict[str, Any]:
    """Returns the options of nested sections (dictionaries) by dotted name, tuples as the lists that JSON makes."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def option(name: str, value: Any) -> str:
    """Returns an option as a word of a command line, such as "--config.prefix.length=10"."""
    return f"--{name}={tuple(value) if isinstance(value, list | tuple) else value}"


BLEU_TOKENIZERS = ("none", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200")
# What is written for the code of a language now and then.
_LANGUAGES = {
    "jp": "ja", "cn": "zh", "kr": "ko", "cz": "cs", "gr": "el", "ua": "uk", "dk": "da", "english": "en",
    "german": "de", "french": "fr", "spanish": "es", "chinese": "zh", "japanese": "ja", "korean": "ko", "arabic": "ar",
    "hindi": "hi", "russian": "ru", "italian": "it", "portuguese": "pt", "dutch": "nl", "czech": "cs", "thai": "th",
}  # fmt: skip
_THREE_LETTERS = {
    "eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "por": "pt", "ita": "it", "nld": "nl",
    "ces": "cs", "rus": "ru", "zho": "zh", "chi": "zh", "cmn": "zh", "yue": "zh", "jpn": "ja", "kor": "ko", "tha": "th",
    "ara": "ar", "hin": "hi", "heb": "he", "ell": "el", "tur": "tr", "pol": "pl", "ukr": "uk", "vie": "vi", "fas": "fa",
}  # fmt: skip


def language_code(value: str, option: str = "data.language") -> str:
    """Returns the language of a code such as `de`, `zh-Hant` or `pt_BR`: its first part in lower case.

    Raises:
      UserError: it is not a code.
    """
    first = re.split("[-_]", value.strip().lower(), maxsplit=1)[0]
    first = _THREE_LETTERS.get(first, first)
    if re.fullmatch("[a-z]{2,3}", first) and first not in _LANGUAGES:
        return first
    hint = f"; did you mean {_LANGUAGES[first]}?" if first in _LANGUAGES else ""
    raise UserError(f'{option} is "{value}"; it must be an ISO code such as en, de, zh, ja or ar{hint}')


def check_bleu_tokenizer(name: str, option: str = "evaluation.bleu_tokenizer") -> None:
    """Raises UserError where a tokenizer for BLEU is not one of sacrebleu's that are offered."""
    if name and name not in BLEU_TOKENIZERS:
        hint = did_you_mean(name, BLEU_TOKENIZERS)
        raise UserError(f'{option} is "{name}"; it must be empty or one of {", ".join(BLEU_TOKENIZERS)}{hint}')
