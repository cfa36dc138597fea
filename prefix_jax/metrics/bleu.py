"""BLEU, chrF and TER through sacrebleu (Post 2018); the only module that imports it.

Rows have different numbers of references, and official scorers treat a missing one as absent (`pad=None`) or as an
empty line (`pad=""`), which BLEU's brevity penalty may select as the closest reference.
"""

import math
import socket
from collections.abc import Sequence
from functools import cache
from typing import Any

from prefix_jax import extras
from prefix_jax.errors import UserError
from prefix_jax.metrics.rows import Row

_DOWNLOAD_SECONDS = 30


@cache
def _tokenizer_13a():
    extras.require("sacrebleu", "BLEU")
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


def tokens_13a(text: str) -> list[str]:
    """Returns lower-case tokens of mteval-v13a; an empty text gives one empty token, as in the E2E scorer."""
    return _tokenizer_13a()(text.lower().rstrip()).split(" ")


def streams(rows: Sequence[Row], pad: str | None) -> tuple[list[str], list[Any]]:
    """Returns `rows` in sacrebleu's layout: hypotheses, and one list of references per index."""
    places = max(len(row["references"]) for row in rows)
    references = [
        [row["references"][place] if place < len(row["references"]) else pad for row in rows] for place in range(places)
    ]
    return [row["hypothesis"] for row in rows], references


def bleu(rows: Sequence[Row], *, tokenize: str, lowercase: bool, smooth: str, pad: str | None) -> float:
    """Returns corpus BLEU in percent; the options are sacrebleu's.

    `tokenize="none", smooth="none", pad=""` equals Moses' multi-bleu.perl over files with empty lines.
    """
    return signed_bleu(rows, tokenize=tokenize, lowercase=lowercase, smooth=smooth, pad=pad)[0]


def signed_bleu(
    rows: Sequence[Row], *, tokenize: str, lowercase: bool = False, smooth: str = "exp", pad: str | None = None
) -> tuple[float, str]:
    """Returns corpus BLEU in percent and sacrebleu's signature of it; the options are sacrebleu's."""
    metric = _metric(tokenize, lowercase, smooth)
    score = float(metric.corpus_score(*streams(rows, pad)).score)
    return score, str(metric.get_signature())


def _metric(tokenize: str, lowercase: bool, smooth: str) -> Any:
    extras.require("sacrebleu", "BLEU")
    from sacrebleu.metrics.bleu import BLEU

    # `force` silences a warning about tokenised text, which is what some tasks score.
    return BLEU(tokenize=tokenize, lowercase=lowercase, smooth_method=smooth, force=True)


@cache
def tokenizer(name: str) -> Any:
    """Returns a sacrebleu tokenizer: a function from a text to space-separated tokens.

    Raises:
      UserError: its package is not installed, or its model is missing and cannot be downloaded.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SECONDS)  # sacrebleu downloads the models of flores101 and flores200
    try:
        return _metric(name, False, "exp").tokenizer
    except (ImportError, RuntimeError) as error:
        raise UserError(f"BLEU's tokenizer {name} cannot be had: {_install(name) or str(error).strip()}") from None
    except (Exception, SystemExit) as error:  # network or disk errors, or a damaged model
        from sacrebleu.utils import SACREBLEU_DIR

        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"BLEU's tokenizer {name} cannot be had ({reason}); put its model into {SACREBLEU_DIR}/models, or choose "
            "another evaluation.bleu_tokenizer"
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def _install(name: str) -> str:
    extra = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}.get(name)
    package = f'"{extra}"' if extra else "sentencepiece" if name.startswith("flores") else ""
    return f"pip install {package}, or choose another evaluation.bleu_tokenizer" if package else ""


def token_counts(rows: Sequence[Row], name: str) -> list[int]:
    """Returns the token count of each row's longest reference, with a sacrebleu tokenizer."""
    cut = tokenizer(name)
    return [max(len(cut(text.rstrip()).split()) for text in row["references"]) for row in rows]


def bleu_e2e(rows: Sequence[Row]) -> float:
    """Returns BLEU in percent as computed by the E2E scorer's Python code (`-p`).

    It equals sacrebleu's (13a, lower case) except for outputs shorter than four tokens, for which the E2E scorer
    counts a negative number of 4-grams, and for zero matches, which it replaces by a tiny number.
    Source: `metrics/pymteval.py` of github.com/tuetschek/e2e-metrics.
    """
    matches = _metric("13a", True, "none").corpus_score(*streams(rows, None))
    lengths = [len(tokens_13a(row["hypothesis"])) for row in rows]
    log_precision = 0.0
    for order, count in enumerate(matches.counts):
        total = sum(length - order for length in lengths)
        log_precision += math.log(max(count, 1e-15) / max(total, 1e-9)) / len(matches.counts)
    ratio = matches.ref_len / sum(lengths)
    return 100 * math.exp(log_precision + min(0.0, 1 - ratio))


def chrf(rows: Sequence[Row]) -> tuple[float, str]:
    """Returns chrF2 in percent (Popovic 2015) and sacrebleu's signature of it.

    Each row's best reference counts, with character n-grams up to 6.
    """
    extras.require("sacrebleu", "chrF")
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    score = float(metric.corpus_score(*streams(rows, None)).score)
    return score, str(metric.get_signature())


def ter_edits(rows: Sequence[Row], characters: bool = False) -> tuple[list[tuple[int, float]], str]:
    """Returns each row's edits to its closest reference, its mean reference length in words, and sacrebleu's signature.

    Shifts count as edits. tercom's defaults (Snover et al. 2006): case-insensitive, with punctuation.

    Args:
      characters: each Chinese character and each run of kana is a word (tercom's normalisation with support of Asian
        languages).
    """
    extras.require("sacrebleu", "TER")
    from sacrebleu.metrics.ter import TER

    metric = TER(normalized=characters, asian_support=characters)
    scores = [metric.sentence_score(row["hypothesis"], row["references"]) for row in rows]
    metric.num_refs = len(rows[0]["references"]) if len({len(row["references"]) for row in rows}) == 1 else -1
    return [(score.num_edits, score.ref_length) for score in scores], str(metric.get_signature())


def ter_of(edits: Sequence[tuple[int, float]]) -> float:
    """Returns TER in percent (lower is better) from `ter_edits`."""
    count = sum(count for count, _ in edits)
    length = sum(length for _, length in edits)
    if length == 0:  # nothing to edit towards: sacrebleu's convention
        return 100.0 if count else 0.0
    return 100 * count / length
