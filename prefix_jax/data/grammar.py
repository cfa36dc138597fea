"""Writes the embedded table-to-text set: lighthouses, their attributes, and what one might say of them.

    python -m prefix_jax.data.grammar [directory]

writes train.jsonl, validation.jsonl and test.jsonl, the same bytes for the same seed. A line is one input with its
references: {"source": "name : Heron Light | place : Gull Cove | ...", "references": ["...", "..."]}. Test records have
a name no training record has, other unseen values beside it, and half of them a combination of attributes that training
leaves out.

A text is planned sentence by sentence: an opening that says one to four facts, then sentences that say one or two each,
in any order, until every fact of the record is said once.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from prefix_jax.data.words import POOLS
from prefix_jax.disk import write_text

T = TypeVar("T")

SEED = 20
# Inputs and references of each split; chance of one of the split's own values.
SIZES = {"train": (1700, 3, 0.0), "validation": (200, 3, 0.35), "test": (200, 4, 0.5)}
OPTIONAL = ("place", "colour", "built", "light", "keeper", "visitors", "legend")

Facts = dict[str, str]


class Dice:
    """Draws from `random.random()` alone, the one method Python promises not to change."""

    def __init__(self, seed: str):
        self._random = random.Random(seed)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._random.random() * len(choices))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return sorted(items, key=lambda _: self._random.random())


def linearise(facts: Facts) -> str:
    """Returns `name : X | attribute : value | ...`."""
    return " | ".join(f"{key} : {value}" for key, value in facts.items())


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def _lighthouse(facts: Facts) -> str:
    return _article(f"{facts['colour']} lighthouse" if "colour" in facts else "lighthouse")


def _named(facts: Facts) -> str:
    """Returns "Heron Light, a red lighthouse" or, where no colour is known, "the lighthouse Heron Light"."""
    return f"{facts['name']}, {_lighthouse(facts)}" if "colour" in facts else f"the lighthouse {facts['name']}"


def _open(visitors: str) -> str:
    return "closed to visitors" if visitors == "never" else f"open to visitors {visitors}"


# Openings: the facts each says, and how. The name is always said.
OPENINGS: list[tuple[tuple[str, ...], Callable[[Facts], str]]] = [
    (("colour",), lambda f: f"{f['name']} is {_lighthouse(f)}."),
    (("colour", "place"), lambda f: f"{f['name']} is {_lighthouse(f)} at {f['place']}."),
    (("colour", "place"), lambda f: f"There is {_lighthouse(f)} called {f['name']} at {f['place']}."),
    (("colour", "place"), lambda f: f"At {f['place']} stands {_named(f)}."),
    (("colour", "built"), lambda f: f"{f['name']} is {_lighthouse(f)} that was built in {f['built']}."),
    (("colour", "built"), lambda f: f"Built in {f['built']}, {f['name']} is {_lighthouse(f)}."),
    (
        ("colour", "place", "built"),
        lambda f: f"Built in {f['built']}, {f['name']} is {_lighthouse(f)} at {f['place']}.",
    ),
    (
        ("colour", "place", "built"),
        lambda f: f"{f['name']}, {_lighthouse(f)} from {f['built']}, stands at {f['place']}.",
    ),
    (("colour", "keeper"), lambda f: f"{f['keeper']} is the keeper of {_named(f)}."),
    (("colour", "keeper"), lambda f: f"{f['name']} is {_lighthouse(f)} kept by {f['keeper']}."),
    (("colour", "place", "keeper"), lambda f: f"{f['keeper']} looks after {_named(f)} at {f['place']}."),
    (
        ("colour", "place", "keeper"),
        lambda f: f"Kept by {f['keeper']}, {f['name']} is {_lighthouse(f)} at {f['place']}.",
    ),
    (("colour", "visitors"), lambda f: f"{f['name']} is {_lighthouse(f)} that is {_open(f['visitors'])}."),
    (("colour", "legend"), lambda f: f"{f['name']} is {_lighthouse(f)} known for the legend of {f['legend']}."),
    (("colour", "light"), lambda f: f"{f['name']} is {_lighthouse(f)} that shows {f['light']}."),
    (("colour", "place", "light"), lambda f: f"{f['name']}, {_lighthouse(f)} at {f['place']}, shows {f['light']}."),
    (("place", "built"), lambda f: f"The lighthouse {f['name']} has stood at {f['place']} since {f['built']}."),
    (("place", "keeper"), lambda f: f"At {f['place']}, {f['keeper']} keeps the lighthouse {f['name']}."),
    (
        ("colour", "built", "light"),
        lambda f: f"{f['name']}, {_lighthouse(f)} built in {f['built']}, shows {f['light']}.",
    ),
    (
        ("colour", "built", "keeper"),
        lambda f: f"{f['keeper']} looks after {_named(f)}{'' if 'colour' in f else ','} built in {f['built']}.",
    ),
    (("colour", "light"), lambda f: f"Sailors know {f['name']}, {_lighthouse(f)}, by its {f['light']}."),
    (
        ("colour", "place", "visitors"),
        lambda f: f"{f['name']}, {_lighthouse(f)} at {f['place']}, is {_open(f['visitors'])}.",
    ),
    (
        ("colour", "place", "legend"),
        lambda f: f"{f['name']}, {_lighthouse(f)} at {f['place']}, is known for the legend of {f['legend']}.",
    ),
    (("place", "built"), lambda f: f"Since {f['built']}, the lighthouse {f['name']} has stood at {f['place']}."),
    (("built", "keeper"), lambda f: f"{f['keeper']} keeps {f['name']}, a lighthouse from {f['built']}."),
]

# What can be said of "it" in one verb phrase.
PHRASES: dict[str, Callable[[str], tuple[str, ...]]] = {
    "place": lambda v: (f"stands at {v}", f"can be found at {v}"),
    "colour": lambda v: (f"is painted {v}",),
    "built": lambda v: (f"was built in {v}", f"dates from {v}"),
    "light": lambda v: (f"shows {v}", f"sends out {v}"),
    "keeper": lambda v: (f"is kept by {v}", f"is looked after by {v}"),
    "visitors": lambda v: (f"is {_open(v)}",) if v == "never" else (f"is {_open(v)}", f"welcomes visitors {v}"),
    "legend": lambda v: (f"is known for the legend of {v}", f"is famous for the tale of {v}"),
}

# What can be said of one fact in a sentence of its own.
SENTENCES: dict[str, Callable[[str], tuple[str, ...]]] = {
    "place": lambda v: (f"You will find it at {v}.",),
    "colour": lambda v: (f"The tower is {v}.", f"Its walls are {v}."),
    "built": lambda v: (f"It has stood there since {v}.", f"It was first lit in {v}."),
    "light": lambda v: (f"Its lamp shows {v}.", f"At night, sailors see {v}."),
    "keeper": lambda v: (f"The keeper is {v}.", f"Its keeper is called {v}.", f"{v} keeps the lamp burning."),
    "visitors": lambda v: (
        ("Visitors are not allowed.", "It never opens to visitors.")
        if v == "never"
        else (f"Visitors are welcome {v}.", f"Visitors can climb the tower {v}.")
    ),
    "legend": lambda v: (f"Locals tell the legend of {v}.", f"People there tell of {v}.", f"Legend tells of {v}."),
}


def describe(facts: Facts, dice: Dice) -> str:
    """Returns one text that says every fact of the record once."""
    options = [(said, form) for said, form in OPENINGS if all(key in facts or key == "colour" for key in said)]
    # Longer openings are more natural, and more often chosen.
    said, form = dice.pick(
        [option for option in options for _ in range(len([k for k in option[0] if k in facts]) or 1)]
    )
    text = [form({key: facts[key] for key in ("name", *said) if key in facts})]
    left = dice.shuffled([key for key in facts if key != "name" and key not in said])
    # The legend, like a story's point, tends to the end.
    if "legend" in left and dice.chance(0.6):
        left.sort(key=lambda key: key == "legend")
    while left:
        subject = (
            "It"
            if text[-1].startswith("The ") or text[-1].endswith(" lighthouse.")
            else dice.pick(("It", "The lighthouse", "It"))
        )
        text.append(_sentence(left, facts, subject, dice))
    return " ".join(text)


def _sentence(left: list[str], facts: Facts, subject: str, dice: Dice) -> str:
    """Says the next one or two facts of `left`, and takes them out of it."""
    # "there" needs a place, said before.
    somewhere = "place" in facts and "place" not in left
    first = left.pop(0)
    if left and dice.chance(0.55):
        # A legend's own verbs would take in a phrase that follows.
        pair = sorted((first, left.pop(0)), key=lambda key: key == "legend")
        return f"{subject} {_joined_phrases(pair, facts, dice)}."
    if dice.chance(0.35):
        return f"{subject} {dice.pick(PHRASES[first](facts[first]))}."
    choices = SENTENCES[first](facts[first])
    return dice.pick([choice for choice in choices if somewhere or " there" not in choice])


def _joined_phrases(pair: list[str], facts: Facts, dice: Dice) -> str:
    """Returns two verb phrases as one: "dates from 1874 and is kept by Ada Holm"."""
    if "visitors" in pair and facts["visitors"] == "never":
        if pair[1] == "legend":
            return f"{dice.pick(PHRASES['visitors']('never'))} but {dice.pick(PHRASES['legend'](facts['legend']))}"
        other = pair[0] if pair[1] == "visitors" else pair[1]
        return f"{dice.pick(PHRASES[other](facts[other]))} but {dice.pick(PHRASES['visitors']('never'))}"
    verbs = [dice.pick(PHRASES[key](facts[key])) for key in pair]
    if verbs[0].startswith("is ") and verbs[1].startswith("is "):
        verbs[1] = verbs[1][3:]
    return f"{verbs[0]} and {verbs[1]}"


def _held_out(keys: tuple[str, ...]) -> bool:
    """Returns whether a combination of attributes is kept from training: about a quarter of them."""
    return sum((i + 1) ** 2 for i, key in enumerate(OPTIONAL) if key in keys) % 4 == 3


def _record(split: str, new_combination: bool, dice: Dice) -> Facts:
    own, share = list(SIZES).index(split), SIZES[split][2]
    while True:
        keys = tuple(key for key in OPTIONAL if dice.chance(0.62))
        if 2 <= len(keys) <= 6 and _held_out(keys) == new_combination:
            break
    facts = {}
    for key in ("name", *keys):
        unseen = key == "name" or dice.chance(share)
        facts[key] = dice.pick(POOLS[key][own if unseen else 0])
    return facts


def generate(split: str) -> list[dict]:
    """Returns a split's records: {"source", "references"}; sources are distinct, and the references of each."""
    count, references, _ = SIZES[split]
    dice = Dice(f"{SEED} {split}")
    records: dict[str, list[str]] = {}
    while len(records) < count:
        # Half of the test's records, and a quarter of validation's, combine attributes as training never does.
        new = {"train": False, "validation": len(records) % 4 == 0, "test": len(records) % 2 == 0}[split]
        facts = _record(split, new, dice)
        texts: dict[str, None] = {}
        for _ in range(40):
            if len(texts) < references:
                texts[describe(facts, dice)] = None
        if len(texts) == references:
            records.setdefault(linearise(facts), list(texts))
    return [{"source": source, "references": texts} for source, texts in records.items()]


def write(directory: Path) -> None:
    """Writes the three files."""
    for split in SIZES:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in generate(split))
        write_text(directory / f"{split}.jsonl", text)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "lighthouse")
