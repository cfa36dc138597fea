"""Metrics of labels, in percent, with the definitions of scikit-learn; the confusion matrix beside them."""

import math
from collections.abc import Callable, Sequence

from prefix_jax.metrics.metric import PERCENT, How, Measured, Metric
from prefix_jax.metrics.rows import Row

OTHER = "(other)"
_ONE = "it needs two labels, and all records have the same one"


def of_labels(rows: Sequence[Row], how: How) -> Measured:
    """Accuracy, balanced accuracy, macro and micro F1, and Matthews' correlation coefficient.

    Where rows have choices, F1 is over those that occur; an output that is none of them is wrong, and no class.
    """
    right, given = labels_of(rows)
    classes, counts_CxC = confusion(right, given, _choices(rows))
    hits = [counts_CxC[i][i] for i in range(len(classes))]
    wanted, said = [sum(row) for row in counts_CxC], [sum(column) for column in zip(*counts_CxC, strict=True)]
    recalls = [hit / count for hit, count in zip(hits, wanted, strict=True) if count]
    own = [i for i, name in enumerate(classes) if name != OTHER]
    found = Measured()
    found.add("accuracy", 100 * sum(hits) / len(rows))
    found.add("balanced_accuracy", 100 * math.fsum(recalls) / len(recalls))
    found.add("macro_f1", 100 * math.fsum(_f1(hits[i], wanted[i], said[i]) for i in own) / len(own))
    found.add("micro_f1", 100 * _f1(*(sum(counts[i] for i in own) for counts in (hits, wanted, said))))
    found.add("mcc", 100 * _mcc(sum(hits), wanted, said), "" if sum(map(bool, wanted)) > 1 else _ONE)
    found.details["confusion"] = {"labels": classes, "counts": counts_CxC}
    return found


def labels_of(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Returns the right label of each row and the label given; of several references, the one given is right."""
    given = [row["hypothesis"].strip() for row in rows]
    references = [[text.strip() for text in row["references"]] for row in rows]
    return [one if one in texts else texts[0] for one, texts in zip(given, references, strict=True)], given


def confusion(right: Sequence[str], given: Sequence[str], choices: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """Returns the classes that occur, and how often each right one (rows) was given as each (columns).

    `choices` fix the order; a label given that is not among them counts as `OTHER`. Without choices, all labels count.
    """
    known = set(right) | (set(choices) or set(given))
    given = [one if one in known else OTHER for one in given]
    occurring = set(right) | set(given)
    order = [*dict.fromkeys(choices), *sorted(occurring - set(choices) - {OTHER}), OTHER]
    classes = [one for one in order if one in occurring]
    place = {one: i for i, one in enumerate(classes)}
    counts = [[0] * len(classes) for _ in classes]
    for one, other in zip(right, given, strict=True):
        counts[place[one]][place[other]] += 1
    return classes, counts


def f1_of(positive: str) -> Callable[[Sequence[Row], How], float]:
    """Returns the F1 of one label, the positive one."""

    def f1(rows: Sequence[Row], how: How) -> float:
        right, given = labels_of(rows)
        hits = sum(a == b == positive for a, b in zip(right, given, strict=True))
        return 100 * _f1(hits, right.count(positive), given.count(positive))

    return f1


def macro_f1(rows: Sequence[Row], how: How) -> float:
    """The macro F1 of `of_labels` alone."""
    return of_labels(rows, how).scores["macro_f1"]


def mcc(rows: Sequence[Row], how: How) -> float:
    """Matthews' correlation coefficient alone; 0 where all records have the same label."""
    return of_labels(rows, how).scores.get("mcc", 0.0)


def accuracy(rows: Sequence[Row], how: How) -> float:
    """Share of outputs that are a reference, but for white space around them."""
    right, given = labels_of(rows)
    return 100 * sum(a == b for a, b in zip(right, given, strict=True)) / len(rows)


def _choices(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(text.strip() for row in rows for text in row.get("choices") or ()))


def _f1(hits: float, wanted: float, said: float) -> float:
    return 2 * hits / (wanted + said) if wanted + said else 0.0


def _mcc(hits: int, wanted: Sequence[int], said: Sequence[int]) -> float:
    total = sum(wanted)
    spread = (total**2 - sum(n * n for n in said)) * (total**2 - sum(n * n for n in wanted))
    covariance = hits * total - sum(a * b for a, b in zip(wanted, said, strict=True))
    return covariance / math.sqrt(spread) if spread else 0.0


def _row(name: str) -> Metric:
    return Metric(name, of_labels, largest=PERCENT)


CLASSIFICATION = tuple(map(_row, ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "mcc")))
ACCURACY, MCC = Metric("accuracy", accuracy, largest=PERCENT), Metric("mcc", mcc, largest=PERCENT)
