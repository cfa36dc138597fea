"""Record: one input of a task with its target text."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Record:
    """One input and its text.

    In the per-text view (`pairs`), `target` is the text, `references` contains only it, and `id` ends in `#k`. In the
    per-input view (`inputs`), `references` contains every text of the input, `target` the first, and `id` is that of
    the input. `choices`, if any, are the texts of which one is to be chosen.
    `conversation` is the JSON of a whole conversation, of which `target` is the last turn's text.
    """

    source: str
    target: str
    references: tuple[str, ...]
    category: str | None
    id: str
    choices: tuple[str, ...] = ()
    conversation: str = ""

    @property
    def input_id(self) -> str:
        """Id of the input of this text."""
        return self.id.partition("#")[0]


def pair(source: str, text: str, category: str | None, input_id: str, k: int, choices: tuple[str, ...] = ()) -> Record:
    """Returns the per-text record of the `k`-th text of an input."""
    return Record(source, text, (text,), category, f"{input_id}#{k}", choices)


def normalised(record: Record, form: str) -> Record:
    """Returns the record with its texts in a Unicode normalisation form; "": as they are."""
    if not form:
        return record
    one = lambda text: normal_text(text, form)
    return replace(
        record,
        source=one(record.source),
        target=one(record.target),
        references=tuple(map(one, record.references)),
        choices=tuple(map(one, record.choices)),
    )


def normal_text(text: str, form: str) -> str:
    """Returns a text in a Unicode normalisation form; "": as it is."""
    return unicodedata.normalize(form, text) if form else text  # type: ignore[arg-type]


def group(pairs: Iterable[Record]) -> list[Record]:
    """Returns one record per input, in order of first appearance, with all its references in order."""
    inputs: dict[str, list[Record]] = {}
    for record in pairs:
        inputs.setdefault(record.input_id, []).append(record)
    return [
        replace(first[0], references=tuple(text for record in first for text in record.references), id=input_id)
        for input_id, first in inputs.items()
    ]
