"""The text forms in which the WebNLG and DART scorers compare outputs with references.

Source: `evaluation/` of github.com/Yale-LILY/dart, whose `run_eval_on_webnlg.sh` and `run_eval_on_dart.sh` Li and Liang
(2021) score with; its WebNLG part is that of the WebNLG Challenge 2017.
"""

import re

_NOT_WORD = re.compile(r"(\W)")


def dart(text: str) -> str:
    """Returns `text` as DART's reference files hold it: punctuation split off, single spaces, lower case."""
    return _split_punctuation(text).lower()


def webnlg_reference(text: str) -> str:
    """Returns a WebNLG reference: punctuation split off, then lower case, then ASCII."""
    return _ascii(_split_punctuation(text).lower())


def webnlg_hypothesis(text: str) -> str:
    """Returns a WebNLG output: ASCII, then lower case, then punctuation split off.

    The order differs from that of references, as in the official scorer; it shows where one character becomes several
    in ASCII (½ is " 1/2 ", of which only the output's slash is split off).
    """
    return _split_punctuation(_ascii(_ascii(text.strip()).lower()))


def _split_punctuation(text: str) -> str:
    return " ".join(" ".join(_NOT_WORD.split(text)).split())


def _ascii(text: str) -> str:
    from unidecode import unidecode

    # A lone surrogate has no ASCII form; it is dropped without a warning.
    return unidecode(text.encode("utf-8", "ignore").decode("utf-8"))
