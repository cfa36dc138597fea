"""An attention matrix as a picture: queries down, keys across, the prefix's block first."""

import math
from collections.abc import Sequence

from prefix_jax.reporting.svg.axes import DIGIT
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.plots import RIGHT, drawing, text_at

# Fainter cells are not seen, and are left out; what the pointer tells is only of those that are.
FAINTEST, TOLD = 0.002, 0.02
LONGEST = 14  # characters of a token that are shown
LEANING = 0.64 * LONGEST * DIGIT  # how far the names of columns lean to the right


def attention_map(
    weights: Sequence[Sequence[float]],
    slots: int,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    title: str,
    width: int = 980,
) -> Markup:
    """Returns an SVG of one head's weights, `[queries, slots + keys]`; the shade grows with their square root.

    Args:
      slots: how many of the first columns are the prefix's; a line parts them from the text's.
    """
    queries, keys = [_cut(word) for word in queries], [_cut(word) for word in keys]
    left = max(len(word) for word in queries) * DIGIT + 10
    cell_w = min((width - left - RIGHT - LEANING) / len(keys), 26.0)
    cell_h = min(max(cell_w, 9.0), 16.0)
    top = max(len(word) for word in keys) * DIGIT * 0.75 + 30
    height = top + len(queries) * cell_h + 12
    parts: list[Markup] = []
    for i, row in enumerate(weights):
        for j, weight in enumerate(row):
            if weight >= FAINTEST:
                told = tag("title", f"{queries[i]} to {keys[j]}: {100 * weight:.1f} %") if weight >= TOLD else None
                place = {"x": f"{left + j * cell_w:.1f}", "y": f"{top + i * cell_h:.1f}"}
                size = {"width": f"{cell_w - 0.6:.1f}", "height": f"{cell_h - 0.6:.1f}"}
                parts.append(tag("rect", told, class_="cell", fill_opacity=f"{math.sqrt(weight):.2f}", **place, **size))
    parts += [text_at(word, left - 6, top + (i + 0.5) * cell_h + 4, "end") for i, word in enumerate(queries)
              if i % math.ceil(9 / cell_h) == 0]  # fmt: skip
    parts += [_turned(word, left + (j + 0.6) * cell_w, top - 6) for j, word in enumerate(keys)
              if j % math.ceil(9 / cell_w) == 0]  # fmt: skip
    if slots:
        parts += _block(left, left + slots * cell_w, top, height - 12)
    share = sum(sum(row[:slots]) for row in weights) / max(len(weights), 1)
    told = f"{title}. {len(queries)} tokens look at {slots} slots, with {100 * share:.0f} % of their attention, and at "
    return drawing(parts, width, height, f"{told}{len(keys) - slots} tokens.")


def _block(left: float, right: float, top: float, bottom: float) -> list[Markup]:
    """The line around the prefix's columns, and its name."""
    edge = {
        "x": f"{left - 1:.1f}",
        "y": f"{top - 1:.1f}",
        "width": f"{right - left:.1f}",
        "height": f"{bottom - top:.1f}",
    }
    return [
        tag("rect", class_="mark faint", **edge),
        text_at("prefix", left, 12, "start", "label"),
        text_at("text", right + 6, 12, "start", "label"),
    ]


def _turned(word: str, x: float, y: float) -> Markup:
    return tag("text", word, class_="tick", text_anchor="start", transform=f"translate({x:.1f} {y:.1f}) rotate(-50)")


def _cut(word: str) -> str:
    return word if len(word) <= LONGEST else word[: LONGEST - 1] + "…"
