"""E2E NLG: the format of Li & Liang 2021 (`src1_*.txt`) and the challenge's CSV; the challenge's scores."""

import re
from collections.abc import Sequence
from pathlib import Path

from prefix_jax.data.data_set import DataSet
from prefix_jax.data.files import Row, read_rows, read_text, text_field
from prefix_jax.data.hub import HubSet
from prefix_jax.data.reading import Notes
from prefix_jax.data.records import Record, pair
from prefix_jax.data.text_files import kind, stem
from prefix_jax.disk import lines
from prefix_jax.errors import UserError
from prefix_jax.metrics import bleu, coco, nist, worth
from prefix_jax.metrics.metric import PERCENT, How, Measured, Metric
from prefix_jax.metrics.rows import Row as Scored
from prefix_jax.metrics.shared import without_blank
from prefix_jax.tasks.task import Task

Text = tuple[str, str]  # source, target

_SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")
_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


def read(path: Path, split: str) -> list[Record]:
    """Returns one record per text from `source||target` lines, or CSV with mr, ref; inputs are distinct sources."""
    return records(parse(path), split)


def preferred(files: Sequence[Path]) -> Sequence[Path]:
    """Prefers the paper's files to the challenge's CSV, and CSV with references to CSV without."""
    texts = [path for path in files if kind(path) == ".txt"] or list(files)
    return [path for path in texts if "ref" in stem(path)] or texts


def parse(path: Path, notes: Notes | None = None) -> list[Text]:
    """Returns a file's (source, target) texts."""
    if kind(path) != ".txt":
        return _texts(read_rows(path, notes))
    texts = []
    for number, line in enumerate(lines(read_text(path)), 1):
        if not line.strip():
            continue
        source, bars, target = line.partition("||")
        if not bars or not source.strip() or not target.strip():
            raise UserError(f"line {number} of {path} is not `source||target` with both parts; correct the line.")
        if "\r" in line and "||" in target:
            raise UserError(f"line {number} of {path} holds two rows with a bare \\r between them; end lines with \\n.")
        texts.append((source.strip(), target.strip()))
    return texts


def from_rows(rows: list[Row], split: str) -> list[Record]:
    """Returns the records of the challenge's CSV (mr, ref) or of the hub's columns, the sources linearised."""
    return records(_texts(rows), split)


def _texts(rows: list[Row]) -> list[Text]:
    texts = []
    for row in rows:
        columns = {name.lower(): name for name in row[1]}
        meaning = text_field(row, columns.get("mr", columns.get("meaning_representation", "mr")))
        text = text_field(row, columns.get("ref", columns.get("human_reference", "ref")))
        texts.append((linearise(meaning, row[0]), text.strip()))
    return texts


def linearise(meaning: str, where: str = "the row") -> str:
    """Converts `name[X], eatType[pub]` to the paper's format: `name : X | Type : pub`."""
    slots, at = [], 0
    while at < len(meaning):
        match = _SLOT.match(meaning, at)
        if match is None:
            raise UserError(f'{where} has a meaning representation that is not `name[X], ...`: "{meaning[:60]}".')
        name, value = match.group(1).strip(), match.group(2).strip()
        slots.append(f"{_NAMES.get(name, name)} : {_spaced(value)}")
        at = match.end()
    return " | ".join(slots)


def _spaced(value: str) -> str:
    # The paper's files went through spaCy, which sets currency signs and the dash of a range apart.
    return re.sub(r"(?<=\d)-(?=\d)", " - ", re.sub(r"£(?=\d)", "£ ", value))


def records(texts: list[Text], split: str) -> list[Record]:
    """Returns one record per text; texts with the same source belong to one input."""
    numbers: dict[str, list[int]] = {}
    found = []
    for source, target in texts:
        number = numbers.setdefault(source, [len(numbers), -1])
        number[1] += 1
        found.append(pair(source, target, None, f"{split}-{number[0]}", number[1]))
    return found


def as_read(text: str) -> str:
    """Returns a typed text in the form of the paper's files, from `name[X], eatType[pub]` too."""
    text = text.strip()
    if not text.endswith("]") or " : " in text:
        return text
    try:
        return linearise(text)
    except UserError:
        return text


def measure(rows: Sequence[Scored], how: How) -> Measured:
    """As `measure_scores.py -p` of github.com/tuetschek/e2e-metrics, METEOR and ROUGE_L in percent.

    Its file of references ends an instance at a blank line, so there a blank reference does not exist.
    """
    rows, found = without_blank(rows), Measured()
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


TASK = Task(
    name="e2e",
    data=DataSet(
        folder="e2e",
        suffixes=(".txt", ".csv"),
        parse=parse,
        records=lambda items, split, columns, notes: records(items, split),
        prefer=preferred,
        hub=HubSet("tuetschek/e2e_nlg"),
        from_hub=lambda rows, split, columns, notes: from_rows(rows, split),
    ),
    metrics=(
        Metric("BLEU", measure, largest=PERCENT),
        Metric("NIST", measure, 4),
        Metric("METEOR", measure, java=True, largest=PERCENT),
        Metric("ROUGE_L", measure, java=True, largest=PERCENT),
        Metric("CIDEr", measure, 4, java=True),
    ),
    as_read=as_read,
)
