"""The samples of a report: inputs, references, and the texts of both models."""

from collections.abc import Mapping
from typing import Any

from prefix_jax.data.conversations import transcript
from prefix_jax.reporting.run import Run
from prefix_jax.reporting.svg.markup import Markup, join, tag

SHOWN_SAMPLES, ALL_SAMPLES = 6, 30


def samples(run: Run) -> Markup | None:
    """Inputs, references and what both models wrote."""
    if not run.samples:
        return None
    first, rest = run.samples[:SHOWN_SAMPLES], run.samples[SHOWN_SAMPLES:ALL_SAMPLES]
    more = None
    if rest:
        inside = tag("div", [_sample(one) for one in rest], class_="stack")
        more = tag("details", tag("summary", f"{len(rest)} more"), inside, class_="more")
    about = "The same inputs through the frozen model alone and with what was tuned, as decoded for the scores."
    return join([tag("p", about, class_="about"), tag("div", [_sample(one) for one in first], class_="stack"), more])


def _sample(sample: Mapping[str, Any]) -> Markup:
    references = sample.get("references")
    references = [str(one) for one in references] if isinstance(references, list) else []
    parts: list[object] = [tag("p", "Input", class_="eyebrow"), _source(str(sample.get("source", "")))]
    if references:
        rest = references[1:]
        others = tag("details", tag("summary", f"{len(rest)} more reference{'s' * (len(rest) > 1)}"),
                     [tag("p", one, dir="auto") for one in rest]) if rest else None  # fmt: skip
        first = tag("p", references[0], dir="auto")
        parts.append(tag("div", tag("p", "Reference", class_="eyebrow"), first, others, class_="reference"))
    bare = sample.get("bare")
    texts = [_text("Bare model", bare, "bare")] if bare is not None else []
    texts.append(_text("Tuned", sample.get("tuned"), "tuned"))
    both = tag("div", texts, class_="texts" if bare is not None else "texts alone")
    return tag("article", tag("div", parts, class_="input"), both, class_="card sample")


def _text(name: str, text: object, kind: str) -> Markup:
    written = str(text).strip() if text is not None else ""
    body = tag("p", written, dir="auto") if written else tag("p", "(nothing)", class_="empty")
    return tag("div", tag("p", name, class_="eyebrow"), body, class_=f"text {kind}")


def _source(source: str) -> Markup:
    """Shows `name : The Eagle | food : Japanese` as pairs, a conversation by its turns, any other input as it is."""
    if turns := transcript(source.strip()):
        said = [tag("div", tag("dt", role), tag("dd", text, dir="auto")) for role, text in turns]
        return tag("dl", said, class_="turns")
    pairs = [part.split(" : ", 1) for part in source.strip().split(" | ")]
    if all(len(pair) == 2 and all(half.strip() for half in pair) for pair in pairs):
        inside = [tag("div", tag("dt", name.strip()), tag("dd", value.strip())) for name, value in pairs]
        return tag("dl", inside, class_="pairs", dir="auto")
    return tag("p", source, dir="auto")
