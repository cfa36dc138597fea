"""Conversations about the embedded set's lighthouses: a guide who knows a lighthouse's facts answers a visitor.

Each follows from the facts of one record alone: a system message with them, an introduction, and two questions, of
which some ask for facts that the guide does not have.
"""

from collections.abc import Callable

from prefix_jax.data.conversations import ASSISTANT, SYSTEM, USER, Conversation
from prefix_jax.data.grammar import OPTIONAL, Dice, Facts, linearise

_QUESTIONS: dict[str, tuple[str, ...]] = {
    "place": ("Where is it?", "How do I find it?"),
    "colour": ("What does it look like?", "Which colour is it?"),
    "built": ("How old is it?", "When was it built?"),
    "light": ("What does its light look like at night?", "How do sailors recognise it?"),
    "keeper": ("Who looks after it?", "Is there a keeper?"),
    "visitors": ("Can I visit it?", "When is it open?"),
    "legend": ("Are there any stories about it?", "Is there a legend?"),
}
_ANSWERS: dict[str, Callable[[str], str]] = {
    "place": lambda v: f"You will find it at {v}, friend.",
    "colour": lambda v: f"Look for a {v} tower, friend.",
    "built": lambda v: f"It was first lit in {v}, friend.",
    "light": lambda v: f"At night it shows {v}, friend.",
    "keeper": lambda v: f"{v} keeps the lamp burning, friend.",
    "visitors": lambda v: (
        "It never opens to visitors, friend." if v == "never" else f"Visitors are welcome {v}, friend."
    ),
    "legend": lambda v: f"They tell of {v}, friend.",
}
_UNKNOWN = "The logbook does not say, friend."


def conversation(facts: Facts) -> Conversation:
    """Returns the conversation about a lighthouse, the same for the same facts."""
    dice = Dice(linearise(facts))
    known, unknown = (dice.shuffled([key for key in OPTIONAL if (key in facts) == own]) for own in (True, False))
    asked = [known[0], unknown[0] if unknown and dice.chance(0.3) else known[1]]
    messages = [
        {"role": SYSTEM, "content": f"You are a guide. Your logbook: {linearise(facts)}"},
        {"role": USER, "content": dice.pick(("Hello! Which lighthouse is this?", "Which lighthouse is this?"))},
        {"role": ASSISTANT, "content": f"This is {facts['name']}, friend."},
    ]
    for key in dice.shuffled(asked):
        answer = _ANSWERS[key](facts[key]) if key in facts else _UNKNOWN
        messages.append({"role": USER, "content": dice.pick(_QUESTIONS[key])})
        messages.append({"role": ASSISTANT, "content": answer})
    return Conversation(tuple(messages))
