"""Each task's official scores: which metrics, over which form of the text, in which units.

Units are those of the tables of Li and Liang (2021). Where the official scorer of a task treats text or missing
references in a way of its own, the task's function says so.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.metrics import bleu, coco, nist, normalise, rouge
from prefix_jax.metrics.rows import Row, check_rows

Scores = dict[str, float]

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


@dataclasses.dataclass(frozen=True)
class Task:
    """How a task is scored.

    Attributes:
      measure: rows, and whether to take the scores that need Java, to scores.
      decimals: for each kind of score, in the order of the tables, the decimals that a table prints.
      java: the kinds that need Java.
    """

    measure: Callable[[Sequence[Row], bool], Scores]
    decimals: Mapping[str, int]
    java: tuple[str, ...] = ()

    def format(self, name: str, value: float) -> str:
        """Returns a score as a table prints it; `name` may end in WebNLG's `_seen`, `_unseen` or `_all`."""
        kind = name if name in self.decimals else name.rpartition("_")[0]
        return f"{value:.{self.decimals[kind]}f}"


def score(task: str, rows: Sequence[Row], java: bool = True) -> Scores:
    """Returns the official scores of a task.

    Args:
      task: a name in `TASKS`.
      rows: hypotheses with their references; for webnlg also the category.
      java: whether to take the scores that need Java (METEOR, and E2E's ROUGE_L and CIDEr).

    Raises:
      UserError: an unknown task, rows that cannot be scored, or `java` where there is no Java.
    """
    if task not in TASKS:
        raise UserError(f'There is no task "{task}"{did_you_mean(task, list(TASKS))}')
    check_rows(rows)
    if java and TASKS[task].java:
        coco.require()
    return TASKS[task].measure(rows, java)


def quick_bleu(rows: Sequence[Row]) -> float:
    """Returns E2E's BLEU in percent, for any task: a figure for development that needs no Java."""
    check_rows(rows)
    return bleu.bleu_e2e(_without_blank(rows))


def _e2e(rows: Sequence[Row], java: bool) -> Scores:
    """As `measure_scores.py -p` of github.com/tuetschek/e2e-metrics, METEOR and ROUGE_L in percent.

    Its file of references ends an instance at a blank line, so there a blank reference does not exist.
    """
    rows = _without_blank(rows)
    scores = {"BLEU": bleu.bleu_e2e(rows), "NIST": nist.nist(rows)}
    if java:
        tokenized = coco.tokenize_rows(rows)
        scores["METEOR"] = 100 * coco.meteor(tokenized)[0]
        scores["ROUGE_L"] = 100 * coco.rouge_l(tokenized)
        scores["CIDEr"] = coco.cider(tokenized)
    return scores


def _webnlg(rows: Sequence[Row], java: bool) -> Scores:
    """As `run_eval_on_webnlg.sh` of github.com/Yale-LILY/dart, for the seen, the unseen and all categories.

    A part that has no rows (the development set has no unseen category) has no scores.
    """
    prepared: list[Row] = [
        {
            "hypothesis": normalise.webnlg_hypothesis(row["hypothesis"]),
            "references": [normalise.webnlg_reference(text) for text in row["references"]],
        }
        for row in rows
    ]
    unseen = [_is_unseen(row, number) for number, row in enumerate(rows, start=1)]
    parts = {
        "seen": [place for place, is_unseen in enumerate(unseen) if not is_unseen],
        "unseen": [place for place, is_unseen in enumerate(unseen) if is_unseen],
        "all": list(range(len(rows))),
    }
    scores = _three_references(prepared, {name: places for name, places in parts.items() if places}, java)
    return {f"{kind}_{name}": by_kind[kind] for kind in scores["all"] for name, by_kind in scores.items()}


def _is_unseen(row: Row, number: int) -> bool:
    category = row.get("category")
    if not category:
        raise UserError(f'Row {number} has no "category", which tells the seen records of WebNLG from the unseen ones.')
    if category not in WEBNLG_SEEN + WEBNLG_UNSEEN:
        hint = did_you_mean(category, WEBNLG_SEEN + WEBNLG_UNSEEN)
        raise UserError(f'Row {number}: WebNLG 2017 has no category "{category}"{hint}')
    return category in WEBNLG_UNSEEN


def _dart(rows: Sequence[Row], java: bool) -> Scores:
    """As `run_eval_on_dart.sh` of github.com/Yale-LILY/dart (BLEU, METEOR, TER)."""
    prepared: list[Row] = [
        {
            "hypothesis": normalise.dart(row["hypothesis"]),
            "references": [normalise.dart(text) for text in row["references"]],
        }
        for row in rows
    ]
    return _three_references(prepared, {"all": range(len(rows))}, java)["all"]


def _three_references(rows: Sequence[Row], parts: Mapping[str, Sequence[int]], java: bool) -> dict[str, Scores]:
    """BLEU in percent, METEOR and TER in [0, 1] against the first three references of normalised text, for each part.

    A part is the places of its rows. multi-bleu.perl reads a missing reference as an empty line of length 0, in as many
    files as the part's longest row has references; METEOR and TER never see it.
    """
    rows = [{"hypothesis": row["hypothesis"], "references": row["references"][:3]} for row in rows]
    written = _without_blank(rows)
    meteors = coco.meteor(written, list(parts.values())) if java else [0.0] * len(parts)
    edits = bleu.ter_edits(written)
    scores = {}
    for (name, places), meteor in zip(parts.items(), meteors, strict=True):
        lines = [rows[place] for place in places]
        scores[name] = {"BLEU": bleu.bleu(lines, tokenize="none", lowercase=True, smooth="none", pad="")}
        if java:
            scores[name]["METEOR"] = meteor
        scores[name]["TER"] = bleu.ter_of([edits[place] for place in places]) / 100
    return scores


def _xsum(rows: Sequence[Row], java: bool) -> Scores:
    return rouge.rouge(rows, ("rouge1", "rouge2", "rougeL"))


def _cnn_dm(rows: Sequence[Row], java: bool) -> Scores:
    return rouge.rouge(rows, ("rouge1", "rouge2", "rougeL", "rougeLsum"))


def _translation(rows: Sequence[Row], java: bool) -> Scores:
    """As sacrebleu prints them by default: BLEU over 13a tokens with case, chrF2, TER; all in percent."""
    plain_bleu = bleu.bleu(rows, tokenize="13a", lowercase=False, smooth="exp", pad=None)
    return {"BLEU": plain_bleu, "chrF": bleu.chrf(rows), "TER": bleu.ter(rows)}


def _text(rows: Sequence[Row], java: bool) -> Scores:
    """For any text, all in percent; an exact match equals a reference but for white space around it."""
    exact = sum(row["hypothesis"].strip() in [text.strip() for text in row["references"]] for row in rows)
    return {
        "BLEU": bleu.bleu(rows, tokenize="13a", lowercase=False, smooth="exp", pad=None),
        "chrF": bleu.chrf(rows),
        **rouge.rouge(rows, ("rougeL",)),
        "exact_match": 100 * exact / len(rows),
    }


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
