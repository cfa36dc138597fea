"""Documents about lighthouses, written by the embedded set's grammar, with questions whose answers they hold."""

from collections.abc import Mapping
from typing import NamedTuple

from prefix_jax.data.grammar import OPTIONAL, Dice, Facts, describe
from prefix_jax.data.words import POOLS

# For each attribute, questions that a prefix is trained on, then the one that it is measured by.
ASKED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "place": (("At which place does {} stand?", "Tell me the place of {}."), "Where is {}?"),
    "colour": (("In which colour is {} painted?", "What does {} look like?"), "What colour is {}?"),
    "built": (("In which year was {} first lit?", "How old is {}?"), "When was {} built?"),
    "light": (("What do sailors see of {} at night?", "Describe the lamp of {}."), "What light does {} show?"),
    "keeper": (("Who looks after {}?", "Who lives at {}?"), "Who is the keeper of {}?"),
    "visitors": (("May I visit {}?", "When can people climb {}?"), "When is {} open to visitors?"),
    "legend": (("Which story do people tell of {}?", "What is {} famous for?"), "Which legend is told of {}?"),
}


class Fact(NamedTuple):
    """A fact of a document: questions to train on, the question that measures, and its answer."""

    training: tuple[str, ...]
    question: str
    answer: str


class Document(NamedTuple):
    text: str
    facts: tuple[Fact, ...]


def document(seed: int, lighthouses: int = 24, known: int = 4) -> Document:
    """Returns a document about so many lighthouses, with `known` facts of each beside its name.

    24 are about 940 tokens of SmolLM2.
    """
    dice = Dice(f"documents {seed}")
    names = dice.shuffled([name for pool in POOLS["name"] for name in pool])[:lighthouses]
    records: list[Facts] = []
    for name in names:
        keys = dice.shuffled(list(OPTIONAL))[:known]
        records.append({"name": name, **{key: dice.pick(POOLS[key][0]) for key in keys}})
    text = "\n\n".join(describe(record, dice) for record in records)
    return Document(text, tuple(fact for record in records for fact in _facts(record)))


def _facts(record: Facts) -> list[Fact]:
    found = []
    for key, value in record.items():
        if key != "name":
            training, question = ASKED[key]
            asked = tuple(form.format(record["name"]) for form in training)
            found.append(Fact(asked, question.format(record["name"]), value))
    return found
