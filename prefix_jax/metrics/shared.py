"""Metrics that several tasks share, and those that any task may choose by name.

Units are those of the tables of Li and Liang (2021).
"""

from collections.abc import Callable, Mapping, Sequence

from prefix_jax.metrics import bleu, coco, rouge, worth
from prefix_jax.metrics.metric import PERCENT, Function, How, Measured, Metric
from prefix_jax.metrics.rows import Row


def three_references(rows: Sequence[Row], parts: Mapping[str, Sequence[int]], how: How) -> dict[str, Measured]:
    """BLEU in percent, METEOR and TER in [0, 1] against the first three references of normalised text, for each part.

    A part is the places of its rows. multi-bleu.perl reads a missing reference as an empty line of length 0, in as many
    files as the part's longest row has references; METEOR and TER never see it.
    """
    rows = [{"hypothesis": row["hypothesis"], "references": row["references"][:3]} for row in rows]
    written = without_blank(rows)
    no_meteor, words = worth.of_meteor(how.language), worth.of_words(how.language)
    meteors = [0.0] * len(parts)
    if how.java and not no_meteor:
        meteors = coco.meteor(written, list(parts.values()), how.language.meteor)
    edits, signature = bleu.ter_edits(written)
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


def add_sacrebleu(found: Measured, rows: Sequence[Row], how: How) -> None:
    """Adds BLEU and chrF."""
    name = how.language.bleu_tokenizer
    counts = bleu.token_counts(rows, name)
    score, signature = bleu.signed_bleu(rows, tokenize=name)
    found.add("BLEU", score, worth.of_ngrams(counts, 4), signature)
    score, signature = bleu.chrf(rows)
    found.add("chrF", score, signature=signature)


def sacrebleu_with_ter(rows: Sequence[Row], how: How) -> Measured:
    """As sacrebleu prints them: BLEU with case over the tokens of the language (13a), chrF2, TER; all in percent."""
    found = Measured()
    add_sacrebleu(found, rows, how)
    tercom = how.language.code in ("zh", "ja")  # whose characters it can count as words
    edits, signature = bleu.ter_edits(rows, tercom)
    found.add("TER", bleu.ter_of(edits), "" if tercom else worth.of_words(how.language), signature)
    return found


def of_any_text(rows: Sequence[Row], how: How) -> Measured:
    """For any text, all in percent; an exact match equals a reference but for white space around it.

    Where most answers are too short for BLEU, the exact match is the main score and comes first.
    """
    exact = sum(row["hypothesis"].strip() in [text.strip() for text in row["references"]] for row in rows)
    found = Measured()
    add_sacrebleu(found, rows, how)
    found.add("rougeL", rouge.rouge(rows, ("rougeL",), how.language)["rougeL"])
    found.add("exact_match", 100 * exact / len(rows))
    if "BLEU" in found.unmeasured:
        found.scores = {"exact_match": found.scores["exact_match"], **found.scores}
    return found


def distinct(rows: Sequence[Row], how: How) -> Measured:
    """Distinct n-grams of all outputs, in percent of their n-grams (Li et al. 2016), over the language's words."""
    cut = rouge.words(how.language.spaced)
    texts, found = [cut(row["hypothesis"].lower()) for row in rows], Measured()
    for n in (1, 2):
        grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
        found.add(f"distinct_{n}", 100 * len(set(grams)) / max(len(grams), 1))
    return found


def rouge_metrics(*kinds: str) -> tuple[Metric, ...]:
    """Returns rows for kinds of ROUGE, which are computed together."""
    function = _rouge(kinds)
    return tuple(Metric(kind, function, largest=PERCENT) for kind in kinds)


def _rouge(kinds: Sequence[str]) -> Callable[[Sequence[Row], How], Measured]:
    def measured(rows: Sequence[Row], how: How) -> Measured:
        found, counts = Measured(), rouge.word_counts(rows, how.language)
        for name, score in rouge.rouge(rows, kinds, how.language).items():
            found.add(name, score, worth.of_mean(counts, 2) if name == "rouge2" else "")
        return found

    return measured


def without_blank(rows: Sequence[Row]) -> list[Row]:
    """Returns `rows` with the references that hold text; where normalising has left none, with an empty one."""
    return [
        {"hypothesis": row["hypothesis"], "references": [text for text in row["references"] if text.strip()] or [""]}
        for row in rows
    ]


def three_metrics(function: Function) -> tuple[Metric, ...]:
    """Returns the rows of `three_references`, which `function` calls."""
    return (
        Metric("BLEU", function, largest=PERCENT),
        Metric("METEOR", function, 4, java=True, largest=1.0),
        Metric("TER", function, 4, higher_is_better=False),
    )


ANY_TEXT = tuple(Metric(name, of_any_text, largest=PERCENT) for name in ("BLEU", "chrF", "rougeL", "exact_match"))
TRANSLATION = (
    Metric("BLEU", sacrebleu_with_ter, largest=PERCENT),
    Metric("chrF", sacrebleu_with_ter, largest=PERCENT),
    Metric("TER", sacrebleu_with_ter, higher_is_better=False),
)
# Metrics that `evaluation.metrics` may name for any task.
_ROUGE = rouge_metrics("rouge1", "rouge2", "rougeL", "rougeLsum")
_DISTINCT = tuple(Metric(f"distinct_{n}", distinct, largest=PERCENT) for n in (1, 2))
METRICS = {metric.name: metric for metric in (*TRANSLATION, *_ROUGE, ANY_TEXT[-1], *_DISTINCT)}
