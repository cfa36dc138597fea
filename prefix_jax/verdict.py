"""Detection of failed runs from their losses, outputs and scores.

Pure functions from numbers or texts to findings. A finding states a fact; none depends on how the run was configured.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

# Margins of losses in nats per token: above the bare model's, and far above the run's own best.
_ABOVE = 1e-3
_FAR, _FAR_AT_LEAST = 1.25, 0.1
# Share of outputs that are empty, copies or identical from which a run counts as failed.
_NEARLY_ALL = 0.9
_ALIKE = 0.95
# With fewer records, outputs can be identical, or score like the majority answer, by chance.
_RECORDS, _RECORDS_OF_CLASSES = 3, 10
_CLASSES = 20
# The score treated as perfect.
_PERFECT = 100 - 1e-9


class Finding(TypedDict):
    """Evidence of a failed run: the name of its kind, and a sentence with the numbers."""

    finding: str
    detail: str


def of_training(validation: Sequence[tuple[int, float]], bare: float | None, best_kept: bool = False) -> list[Finding]:
    """Returns findings from the validation losses of a finished run.

    Args:
      validation: (step, loss) pairs in order of steps.
      bare: loss of the bare model (without the tuned state) on the same records; None if not measured.
      best_kept: whether the tuned state of the best step was kept instead of the last.
    """
    known = [(step, loss) for step, loss in validation if math.isfinite(loss)]
    if not known:
        return []
    best_step, best = min(known, key=lambda pair: pair[1])
    step, final = (best_step, best) if best_kept else known[-1]
    findings: list[Finding] = []
    if bare is not None and math.isfinite(bare) and final > bare + _ABOVE * max(1.0, bare):
        detail = f"the validation loss at step {step}, {final:.4g}, is above the bare model's, {bare:.4g}"
        findings.append({"finding": "loss_above_bare", "detail": detail})
    if final > _FAR * best and final > best + _FAR_AT_LEAST:
        detail = (
            f"the validation loss at step {step}, {final:.4g}, is far above the run's best, {best:.4g} at step "
            f"{best_step}; training.patience keeps the best"
        )
        findings.append({"finding": "loss_above_best", "detail": detail})
    return findings


def of_metrics(lines: Sequence[Mapping[str, float]], best_kept: bool = False) -> list[Finding]:
    """Returns `of_training` for the lines of `metrics.jsonl`."""
    validation = [(int(line["step"]), line["validation_loss"]) for line in lines if "validation_loss" in line]
    bare = [line["bare_validation_loss"] for line in lines if "bare_validation_loss" in line]
    return of_training(validation, bare[-1] if bare else None, best_kept)


def of_outputs(
    outputs: Sequence[str],
    references: Sequence[Sequence[str]],
    sources: Sequence[str],
    scores: Mapping[str, float],
    bare_scores: Mapping[str, float] | None = None,
    lower_is_better: Collection[str] = (),
    choices: Sequence[Sequence[str]] = (),
) -> list[Finding]:
    """Returns findings from the outputs for a split and their scores.

    Args:
      outputs: one text per record.
      references: correct texts of each record.
      sources: input of each record.
      scores: task scores of the outputs, the main one first.
      bare_scores: scores of the bare model, if known.
      lower_is_better: the scores of which less is better.
      choices: the choices of each record, if it has any.
    """
    texts = [text.strip() for text in outputs]
    right = [{text.strip() for text in one} for one in references]
    findings = [_empty(texts, right), _copies(texts, right, [text.strip() for text in sources])]
    if findings == [None, None]:
        findings.append(_alike(texts, right))
    known = choices if any(choices) else None
    findings += [_not_above_majority(texts, right, known) or _not_above_chance(texts, right, known)]
    findings += [_not_above_bare(scores, bare_scores or {}, lower_is_better)]
    return [finding for finding in findings if finding is not None]


def of_scores(
    scores: Mapping[str, float], bare_scores: Mapping[str, float] | None, lower_is_better: Collection[str]
) -> list[Finding]:
    """Returns findings from scores alone, the main one first."""
    found = None if bare_scores is None else _not_above_bare(scores, bare_scores, lower_is_better)
    return [] if found is None else [found]


def _empty(texts: Sequence[str], right: Sequence[set[str]]) -> Finding | None:
    count = sum(not text and text not in answers for text, answers in zip(texts, right, strict=True))
    if not count or count < _NEARLY_ALL * len(texts):
        return None
    return {"finding": "outputs_empty", "detail": f"{_of_all(count, len(texts))} empty"}


def _copies(texts: Sequence[str], right: Sequence[set[str]], sources: Sequence[str]) -> Finding | None:
    pairs = zip(texts, right, sources, strict=True)
    count = sum(bool(text) and text == source and text not in answers for text, answers, source in pairs)
    if not count or count < _NEARLY_ALL * len(texts):
        return None
    return {"finding": "outputs_copy_input", "detail": f"{_of_all(count, len(texts))} the input itself"}


def _alike(texts: Sequence[str], right: Sequence[set[str]]) -> Finding | None:
    """Nearly all outputs are one text that is not correct for nearly all records."""
    classes = len({text for answers in right for text in answers})
    few = classes <= max(2, len(texts) // 3)
    if len(texts) < (_RECORDS_OF_CLASSES if few else _RECORDS):
        return None
    text, count = Counter(texts).most_common(1)[0]
    fitting = sum(text in answers for answers in right)
    if count < _ALIKE * len(texts) or fitting >= _ALIKE * len(texts):
        return None
    return {"finding": "outputs_alike", "detail": f'{_of_all(count, len(texts))} alike: "{_short(text)}"'}


def _not_above_majority(
    texts: Sequence[str], right: Sequence[set[str]], choices: Sequence[Sequence[str]] | None
) -> Finding | None:
    """For records with the same choices, or few distinct answers: accuracy not above that of the majority answer."""
    answers = Counter(text for one in right for text in one)
    most_classes = min(_CLASSES, len(texts) // 3)
    if choices is not None:  # as many classes as there may be, where all records have the same
        most_classes = len(texts) if len({tuple(one) for one in choices}) == 1 else 0
    if len(texts) < _RECORDS_OF_CLASSES or not 2 <= len(answers) <= most_classes:
        return None
    text, most = answers.most_common(1)[0]
    correct = sum(output in one for output, one in zip(texts, right, strict=True))
    if correct > most or correct == len(texts):
        return None
    shares = f"{100 * correct / len(texts):.2f} % of the outputs are right"
    detail = (
        f'{shares}, no more than if each were the commonest answer, "{_short(text)}" ({100 * most / len(texts):.2f} %)'
    )
    return {"finding": "not_above_majority", "detail": detail}


def _not_above_chance(
    texts: Sequence[str], right: Sequence[set[str]], choices: Sequence[Sequence[str]] | None
) -> Finding | None:
    """For records with choices of their own: accuracy not above what a random choice is expected to reach."""
    if choices is None or len(texts) < _RECORDS_OF_CLASSES or len({tuple(one) for one in choices}) == 1:
        return None
    expected = sum(
        len(answers & {text.strip() for text in own}) / len(own)
        for answers, own in zip(right, choices, strict=True)
        if own
    )
    correct = sum(output in one for output, one in zip(texts, right, strict=True))
    if correct > expected or correct == len(texts):
        return None
    shares = [f"{100 * count / len(texts):.2f} %" for count in (correct, expected)]
    detail = f"{shares[0]} of the outputs are right, no more than by choosing at random ({shares[1]})"
    return {"finding": "not_above_chance", "detail": detail}


def _not_above_bare(
    scores: Mapping[str, float], bare: Mapping[str, float], lower_is_better: Collection[str]
) -> Finding | None:
    """Compares the main score: the first that both have."""
    main = next((name for name in scores if name in bare), None)
    if main is None:
        return None
    lower = main in lower_is_better
    after, before = scores[main], bare[main]
    # Reaching a perfect score with both is not a failure.
    perfect = after <= 0 if lower else after >= _PERFECT
    if perfect or (after < before if lower else after > before):
        return None
    what = "below" if lower else "above"
    return {"finding": "not_above_bare", "detail": f"{main}, {after:.2f}, is not {what} the bare model's, {before:.2f}"}


def _of_all(count: int, total: int) -> str:
    if count == total:
        return f"all {total} outputs are" if total > 1 else "the output is"
    return f"{count} of {total} outputs are"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:37]}..."


def sentence(findings: Sequence[Finding]) -> str:
    """Joins findings into one line."""
    return "this run looks failed: " + "; ".join(finding["detail"] for finding in findings)
