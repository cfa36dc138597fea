"""Metrics of answers: SQuAD's exact match and F1, the final numbers of GSM8K, and groups of yes-or-no answers."""

import re
import string
from collections import Counter
from collections.abc import Sequence

from prefix_jax.metrics.classification import labels_of
from prefix_jax.metrics.metric import PERCENT, How, Measured, Metric
from prefix_jax.metrics.rows import Row

# The text of an answer that says there is none.
NO_ANSWER = "unanswerable"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FINAL = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def squad(rows: Sequence[Row], how: How) -> Measured:
    """As SQuAD's `evaluate-v1.1.py`: EM and token F1 against the best reference, in percent."""
    found = Measured()
    pairs = [(row["hypothesis"], row["references"]) for row in rows]
    _add(found, "", [(_best_exact(a, b), max(_f1(text, a) for text in b)) for a, b in pairs])
    return found


def squad_v2(rows: Sequence[Row], how: How) -> Measured:
    """As SQuAD's `evaluate-v2.0.py` without thresholds; `NO_ANSWER` is its empty text.

    `HasAns` and `NoAns` are the questions with and without an answer.
    """
    found = Measured()
    values, answered = [], []
    for row in rows:
        given = _unless_none(row["hypothesis"])
        wanted = [text for text in map(_unless_none, row["references"]) if _normalised(text)] or [""]
        f1 = max(_f1(text, given) if _normalised(text) and _normalised(given) else float(
            _normalised(text) == _normalised(given)
        ) for text in wanted)  # fmt: skip
        values.append((_best_exact(given, wanted), f1))
        answered.append(wanted != [""])
    _add(found, "", values)
    for part, has in (("_HasAns", True), ("_NoAns", False)):
        if own := [value for value, one in zip(values, answered, strict=True) if one == has]:
            _add(found, part, own)
    return found


def _add(found: Measured, part: str, values: Sequence[tuple[float, float]]) -> None:
    for name, place in (("EM", 0), ("F1", 1)):
        found.add(name + part, 100 * sum(value[place] for value in values) / len(values))


def _normalised(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _unless_none(text: str) -> str:
    return "" if text.strip().lower() == NO_ANSWER else text


def _best_exact(given: str, wanted: Sequence[str]) -> float:
    return float(any(_normalised(given) == _normalised(text) for text in wanted))


def _f1(wanted: str, given: str) -> float:
    right, said = _normalised(wanted).split(), _normalised(given).split()
    same = sum((Counter(right) & Counter(said)).values())
    return 2 * same / (len(right) + len(said)) if same else 0.0


def final_numbers(rows: Sequence[Row], how: How) -> Measured:
    """Percent of outputs with the reference's final number.

    strict_match takes it from after `####`, as GSM8K's own code; flexible_match takes an output's last number, and
    compares values.
    """
    found = Measured()
    wanted = [_after_marks(row["references"][0]) or _last_number(row["references"][0]) for row in rows]
    strict = [_after_marks(row["hypothesis"]) for row in rows]
    flexible = [_last_number(row["hypothesis"]) for row in rows]
    right = [a is not None and a == b for a, b in zip(strict, wanted, strict=True)]
    near = [_value(a) is not None and _value(a) == _value(b) for a, b in zip(flexible, wanted, strict=True)]
    found.add("strict_match", 100 * sum(right) / len(rows))
    found.add("flexible_match", 100 * sum(near) / len(rows))
    return found


def _after_marks(text: str) -> str | None:
    match = _FINAL.search(text)
    return None if match is None else match.group(1).replace(",", "").strip()


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return re.sub(r"[,$]", "", numbers[-1]) if numbers else None


def _value(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def all_of_a_question(rows: Sequence[Row], how: How) -> float:
    """Percent of questions (categories of the rows) of which every answer is judged right, as MultiRC's EM."""
    right, given = labels_of(rows)
    questions: dict[str, bool] = {}
    for row, a, b in zip(rows, right, given, strict=True):
        name = row.get("category") or ""
        questions[name] = questions.get(name, True) and a == b
    return 100 * sum(questions.values()) / len(questions)


def correlations(rows: Sequence[Row], how: How) -> Measured:
    """Pearson's and Spearman's correlation of numbers, in percent; a row's last reference is its number.

    An output that is no number counts as 0.
    """
    from scipy import stats

    wanted = [_value(row["references"][-1]) or 0.0 for row in rows]
    given = [_value(row["hypothesis"].strip()) or 0.0 for row in rows]
    found = Measured()
    for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        constant = len(set(wanted)) < 2
        flat = constant or len(set(given)) < 2
        value = 0.0 if flat else float(function(wanted, given).statistic)  # pyright: ignore
        found.add(name, 100 * value, "all records have the same number" if constant else "")
    return found


SQUAD = tuple(Metric(name, squad, largest=PERCENT) for name in ("EM", "F1"))
SQUAD_V2 = tuple(Metric(name, squad_v2, largest=PERCENT) for name in ("EM", "F1"))
FINAL_NUMBERS = tuple(Metric(name, final_numbers, largest=PERCENT) for name in ("strict_match", "flexible_match"))
CORRELATIONS = tuple(Metric(name, correlations, largest=PERCENT) for name in ("pearson", "spearman"))
EM_OF_QUESTIONS = Metric("EM", all_of_a_question, largest=PERCENT)
