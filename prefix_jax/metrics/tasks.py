"""Each task's official scores: which metrics, over which form of the text, in which units.

Units are those of the tables of Li and Liang (2021). Where the official scorer of a task treats text or missing
references in a way of its own, the task's function says so.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.metrics import bleu, coco, nist, normalise, rouge, worth
from prefix_jax.metrics.languages import Language, language_of, other_letters
from prefix_jax.metrics.rows import Row, check_rows

Scores = dict[str, float]

_PROBE = "The Eagle is a cheap coffee shop by the river."

WEBNLG_SEEN = [
    "Airport",
    "Astronaut",
    "Building",
    "City",
    "ComicsCharacter",
    "Food",
    "Monument",
    "SportsTeam",
    "University",
    "WrittenWork",
]
WEBNLG_UNSEEN = ["Artist", "Athlete", "CelestialBody", "MeanOfTransportation", "Politician"]


@dataclasses.dataclass
class Measured:
    """What the scorers of a task say of rows.

    Attributes:
      scores: those that measure something, in the order of the tables.
      signatures: of the scores that sacrebleu takes, its signatures.
      unmeasured: for each score that these references give no meaning, why.
      notes: what is to be said of the texts' language, a sentence each.
    """

    scores: Scores = dataclasses.field(default_factory=dict)
    signatures: dict[str, str] = dataclasses.field(default_factory=dict)
    unmeasured: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def add(self, name: str, score: float, reason: str = "", signature: str = "") -> None:
        """Adds a score, or the reason for which it says nothing."""
        if not math.isfinite(score):
            reason = reason or "it came out as no finite number"
        if reason:
            self.unmeasured[name] = reason
            return
        self.scores[name] = score
        if signature:
            self.signatures[name] = signature


class How(NamedTuple):
    """How rows are scored: with Java or without, and as texts of which language."""

    java: bool
    language: Language


@dataclasses.dataclass(frozen=True)
class Task:
    """How a task is scored.

    Attributes:
      measure: rows, and how to score them, to scores.
      decimals: for each kind of score, in the order of the tables, the decimals that a table prints.
      java: the kinds that need Java.
    """

    measure: Callable[[Sequence[Row], How], Measured]
    decimals: Mapping[str, int]
    java: tuple[str, ...] = ()

    def format(self, name: str, value: float | None) -> str:
        """Returns a score as a table prints it; `name` may end in WebNLG's `_seen`, `_unseen` or `_all`."""
        kind = name if name in self.decimals else name.rpartition("_")[0]
        return "-" if value is None else f"{value:.{self.decimals[kind]}f}"


def score(task: str, rows: Sequence[Row], java: bool = True, language: str = "en", bleu_tokenizer: str = "") -> Scores:
    """Returns the official scores of a task, without those that the references give no meaning. See `measure`."""
    return measure(task, rows, java, language, bleu_tokenizer).scores


def measure(
    task: str, rows: Sequence[Row], java: bool = True, language: str = "en", bleu_tokenizer: str = ""
) -> Measured:
    """Returns the official scores of a task, and what there is to know of them.

    Args:
      task: a name in `TASKS`.
      rows: hypotheses with their references; for webnlg also the category.
      java: whether to take the scores that need Java (METEOR, and E2E's ROUGE_L and CIDEr).
      language: of the references, as an ISO code.
      bleu_tokenizer: sacrebleu's, for the tasks that have none of their own; empty: by the language.

    Raises:
      UserError: an unknown task, language or tokenizer, rows that cannot be scored, or `java` where there is no Java.
    """
    check(task, rows)
    how = How(java, language_of(language, bleu_tokenizer, [text for row in rows for text in row["references"]]))
    if java and TASKS[task].java:
        coco.require()
    return dataclasses.replace(TASKS[task].measure(rows, how), notes=how.language.notes)


def check(task: str, rows: Sequence[Row]) -> None:
    """Raises UserError where there is no such task, or its rows cannot be scored, whatever their hypotheses are."""
    if task not in TASKS:
        raise UserError(f'There is no task "{task}"{did_you_mean(task, list(TASKS))}')
    check_rows(rows)
    if task == "webnlg":
        for number, row in enumerate(rows, start=1):
            _is_unseen(row, number)


def notes(rows: Sequence[Row], language: str = "en", bleu_tokenizer: str = "") -> tuple[str, ...]:
    """Returns what there is to say of the references' language, a sentence each."""
    return language_of(language, bleu_tokenizer, [text for row in rows for text in row["references"]]).notes


@functools.cache
def try_out(task: str, java: bool = True, language: str = "en", bleu_tokenizer: str = "") -> None:
    """Scores a row, so that what a task's scorers lack is found before there is much to score.

    Raises:
      UserError: as `measure`.
    """
    row: Row = {"hypothesis": _PROBE, "references": [_PROBE], "category": WEBNLG_SEEN[0]}
    check(task, [row])
    known = language_of(language, bleu_tokenizer, [])
    bleu.tokenizer(known.bleu_tokenizer)
    if java and TASKS[task].java:
        coco.require()
    TASKS[task].measure([row], How(java, known))


def quick_bleu(rows: Sequence[Row]) -> float:
    """Returns E2E's BLEU in percent, for any task: a figure for development that needs no Java."""
    check_rows(rows)
    return bleu.bleu_e2e(_without_blank(rows))


def _e2e(rows: Sequence[Row], how: How) -> Measured:
    """As `measure_scores.py -p` of github.com/tuetschek/e2e-metrics, METEOR and ROUGE_L in percent.

    Its file of references ends an instance at a blank line, so there a blank reference does not exist.
    """
    rows, found = _without_blank(rows), Measured()
    words = worth.of_words(how.language)
    counts = bleu.token_counts(rows, "13a")
    score = bleu.bleu_e2e(rows)
    beyond = worth.BROKEN_COUNT if score > worth.TOP else ""
    found.add("BLEU", score, words or worth.of_ngrams(counts, 4) or worth.of_e2e_bleu(rows) or beyond)
    found.add("NIST", nist.nist(rows), words or worth.of_ngrams(counts, 5) or worth.of_nist(rows))
    if how.java:
        tokenized = coco.tokenize_rows(rows)
        wordless, no_meteor = worth.of_wordless(tokenized), worth.of_meteor(how.language)
        meteor = 0.0 if no_meteor else coco.meteor(tokenized, language=how.language.meteor)[0]
        found.add("METEOR", 100 * meteor, no_meteor or wordless)
        found.add("ROUGE_L", 100 * coco.rouge_l(tokenized), words or wordless)
        found.add("CIDEr", coco.cider(tokenized), words or wordless or worth.of_cider(tokenized))
    return found


def _webnlg(rows: Sequence[Row], how: How) -> Measured:
    """As `run_eval_on_webnlg.sh` of github.com/Yale-LILY/dart, for the seen, the unseen and all categories.

    A part that has no rows (the development set has no unseen category) has no scores.
    """
    prepared = [_webnlg_forms(row, how.language) for row in rows]
    unseen = [_is_unseen(row, number) for number, row in enumerate(rows, start=1)]
    parts = {
        "seen": [place for place, is_unseen in enumerate(unseen) if not is_unseen],
        "unseen": [place for place, is_unseen in enumerate(unseen) if is_unseen],
        "all": list(range(len(rows))),
    }
    by_part = _three_references(prepared, {name: places for name, places in parts.items() if places}, how)
    found = Measured()
    for kind in _THREE:
        for name, part in by_part.items():
            if kind in part.scores:
                found.add(f"{kind}_{name}", part.scores[kind], signature=part.signatures.get(kind, ""))
            elif kind in part.unmeasured:
                found.unmeasured[f"{kind}_{name}"] = part.unmeasured[kind]
    return found


def _webnlg_forms(row: Row, language: Language) -> Row:
    """Returns a row in the official forms, which are of English: those of outputs and references differ for letters of
    other scripts, so that rows which have them get one form for both.
    """
    if language.code == "en" and not any(other_letters(text) for text in row["references"]):
        of_output, of_reference = normalise.webnlg_hypothesis, normalise.webnlg_reference
    else:
        of_output = of_reference = normalise.dart
    return {
        "hypothesis": of_output(row["hypothesis"]),
        "references": [of_reference(text) for text in row["references"]],
    }


def _is_unseen(row: Row, number: int) -> bool:
    category = row.get("category")
    if not category:
        raise UserError(f'Row {number} has no "category", which tells the seen records of WebNLG from the unseen ones.')
    if category not in WEBNLG_SEEN + WEBNLG_UNSEEN:
        hint = did_you_mean(category, WEBNLG_SEEN + WEBNLG_UNSEEN)
        raise UserError(f'Row {number}: WebNLG 2017 has no category "{category}"{hint}')
    return category in WEBNLG_UNSEEN


def _dart(rows: Sequence[Row], how: How) -> Measured:
    """As `run_eval_on_dart.sh` of github.com/Yale-LILY/dart (BLEU, METEOR, TER)."""
    prepared: list[Row] = [
        {
            "hypothesis": normalise.dart(row["hypothesis"]),
            "references": [normalise.dart(text) for text in row["references"]],
        }
        for row in rows
    ]
    return _three_references(prepared, {"all": range(len(rows))}, how)["all"]


def _three_references(rows: Sequence[Row], parts: Mapping[str, Sequence[int]], how: How) -> dict[str, Measured]:
    """BLEU in percent, METEOR and TER in [0, 1] against the first three references of normalised text, for each part.

    A part is the places of its rows. multi-bleu.perl reads a missing reference as an empty line of length 0, in as many
    files as the part's longest row has references; METEOR and TER never see it.
    """
    rows = [{"hypothesis": row["hypothesis"], "references": row["references"][:3]} for row in rows]
    written = _without_blank(rows)
    no_meteor, words = worth.of_meteor(how.language), worth.of_words(how.language)
    meteors = [0.0] * len(parts)
    if how.java and not no_meteor:
        meteors = coco.meteor(written, list(parts.values()), how.language.meteor)
    edits, signature = bleu.signed_ter_edits(written)
    counts = bleu.token_counts(rows, "none")
    scores = {}
    for (name, places), meteor in zip(parts.items(), meteors, strict=True):
        lines = [rows[place] for place in places]
        wordless = worth.of_wordless(lines)
        scores[name] = part = Measured()
        score, signed = bleu.signed_bleu(lines, tokenize="none", lowercase=True, smooth="none", pad="")
        part.add("BLEU", score, words or worth.of_ngrams([counts[place] for place in places], 4), signed)
        if how.java:
            part.add("METEOR", meteor, no_meteor or wordless)
        part.add("TER", bleu.ter_of([edits[place] for place in places]) / 100, words, signature)
    return scores


def _xsum(rows: Sequence[Row], how: How) -> Measured:
    return _rouge(rows, how, ("rouge1", "rouge2", "rougeL"))


def _cnn_dm(rows: Sequence[Row], how: How) -> Measured:
    return _rouge(rows, how, ("rouge1", "rouge2", "rougeL", "rougeLsum"))


def _rouge(rows: Sequence[Row], how: How, kinds: Sequence[str]) -> Measured:
    found, counts = Measured(), rouge.word_counts(rows, how.language)
    for name, score in rouge.rouge(rows, kinds, how.language).items():
        found.add(name, score, worth.of_mean(counts, 2) if name == "rouge2" else "")
    return found


def _translation(rows: Sequence[Row], how: How) -> Measured:
    """As sacrebleu prints them: BLEU with case over the tokens of the language (13a), chrF2, TER; all in percent."""
    found = Measured()
    _sacrebleu(found, rows, how)
    tercom = how.language.code in ("zh", "ja")  # whose characters it can count as words
    edits, signature = bleu.signed_ter_edits(rows, tercom)
    found.add("TER", bleu.ter_of(edits), "" if tercom else worth.of_words(how.language), signature)
    return found


def _sacrebleu(found: Measured, rows: Sequence[Row], how: How) -> None:
    """Adds BLEU and chrF."""
    name = how.language.bleu_tokenizer
    counts = bleu.token_counts(rows, name)
    score, signature = bleu.signed_bleu(rows, tokenize=name)
    found.add("BLEU", score, worth.of_ngrams(counts, 4), signature)
    score, signature = bleu.signed_chrf(rows)
    found.add("chrF", score, signature=signature)


def _text(rows: Sequence[Row], how: How) -> Measured:
    """For any text, all in percent; an exact match equals a reference but for white space around it.

    Where most answers are too short for BLEU, the exact match is the main score and comes first.
    """
    exact = sum(row["hypothesis"].strip() in [text.strip() for text in row["references"]] for row in rows)
    found = Measured()
    _sacrebleu(found, rows, how)
    found.add("rougeL", rouge.rouge(rows, ("rougeL",), how.language)["rougeL"])
    found.add("exact_match", 100 * exact / len(rows))
    if "BLEU" in found.unmeasured:
        found.scores = {"exact_match": found.scores["exact_match"], **found.scores}
    return found


def _without_blank(rows: Sequence[Row]) -> list[Row]:
    """Returns `rows` with the references that hold text; where normalising has left none, with an empty one."""
    return [
        {"hypothesis": row["hypothesis"], "references": [text for text in row["references"] if text.strip()] or [""]}
        for row in rows
    ]


_THREE = {"BLEU": 2, "METEOR": 4, "TER": 4}
TASKS: dict[str, Task] = {
    "e2e": Task(
        _e2e, {"BLEU": 2, "NIST": 4, "METEOR": 2, "ROUGE_L": 2, "CIDEr": 4}, java=("METEOR", "ROUGE_L", "CIDEr")
    ),
    "webnlg": Task(_webnlg, _THREE, java=("METEOR",)),
    "dart": Task(_dart, _THREE, java=("METEOR",)),
    "xsum": Task(_xsum, {"rouge1": 2, "rouge2": 2, "rougeL": 2}),
    "cnn_dm": Task(_cnn_dm, {"rouge1": 2, "rouge2": 2, "rougeL": 2, "rougeLsum": 2}),
    "translation": Task(_translation, {"BLEU": 2, "chrF": 2, "TER": 2}),
    "text": Task(_text, {"BLEU": 2, "chrF": 2, "rougeL": 2, "exact_match": 2}),
}
