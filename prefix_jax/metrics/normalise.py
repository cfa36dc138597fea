"""Text normalisation of the WebNLG and DART scorers.

Source: `evaluation/` of github.com/Yale-LILY/dart, whose `run_eval_on_webnlg.sh` and `run_eval_on_dart.sh` Li and Liang
(2021) use; its WebNLG part comes from the WebNLG Challenge 2017.
"""

import re

from prefix_jax import extras

_NOT_WORD = re.compile(r"(\W)")


def dart(text: str) -> str:
    """Returns `text` as in DART's reference files: punctuation separated, single spaces, lower case."""
    return _split_punctuation(text).lower()


def webnlg_reference(text: str) -> str:
    """Normalises a WebNLG reference: separates punctuation, lower-cases, then converts to ASCII."""
    return _ascii(_split_punctuation(text).lower())


def webnlg_hypothesis(text: str) -> str:
    """Normalises a WebNLG output: converts to ASCII, lower-cases, then separates punctuation.

    The order differs from that of references, as in the official scorer; it matters where one character becomes several
    in ASCII (½ is " 1/2 ", in which only the output's slash is separated).
    """
    return _split_punctuation(_ascii(_ascii(text.strip()).lower()))


def _split_punctuation(text: str) -> str:
    return " ".join(" ".join(_NOT_WORD.split(text)).split())


def _ascii(text: str) -> str:
    extras.require("unidecode", "the normalisation of texts")
    from unidecode import unidecode

    # A lone surrogate has no ASCII form and is silently dropped.
    return unidecode(text.encode("utf-8", "ignore").decode("utf-8"))
