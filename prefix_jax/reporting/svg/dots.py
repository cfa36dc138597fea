"""Dot plots with one row per item: numbers of very different sizes, or means with deviations."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from prefix_jax.reporting.svg.axes import DIGIT, bar_ends, linear_axis, log_axis, placed, tick_text
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.plots import RIGHT, drawing, text_at, whisker

ROW, HEAD, FOOT = 22.0, 34.0, 40.0


class Dots(NamedTuple):
    """A row: its name, the value of the filled dot, that of the ring (None: none), and a note at the right."""

    name: str
    full: float
    ring: float | None = None
    note: str = ""


def dot_rows(
    rows: Sequence[Dots], *, title: str, x_label: str, full: str, ring: str = "", note: str = "", width: int = 760
) -> Markup:
    """Returns an SVG of dots on a logarithmic axis (all values must be positive); `full`, `ring` and `note` are the
    legend texts.
    """
    left = max(len(row.name) for row in rows) * DIGIT + 12
    right = width - max([len(row.note) for row in rows] + [len(note)]) * DIGIT - 14
    values = [value for row in rows for value in (row.full, row.ring) if value is not None]
    axis = placed(log_axis(min(values) / 1.5, max(values) * 1.5), left, right)
    height = HEAD + ROW * len(rows) + FOOT
    foot = HEAD + ROW * len(rows)
    parts: list[Markup] = []
    for tick in axis.ticks:
        x = f"{axis.at(tick):.1f}"
        parts.append(tag("line", class_="grid", x1=x, x2=x, y1=HEAD - 4, y2=foot))
        parts.append(text_at(_size(tick), axis.at(tick), foot + 16, "middle"))
    for number, row in enumerate(rows):
        parts += _row(row, axis.at(row.full), None if row.ring is None else axis.at(row.ring),
                      left, width, HEAD + ROW * (number + 0.5))  # fmt: skip
    parts.append(text_at(axis.label(x_label), (left + right) / 2, height - 6, "middle", "label"))
    parts += [*_key(full, ring, left), text_at(note, width, 14, "end", "label")]
    told = " ".join(f"{row.name}: {row.full:,.0f}." for row in rows)
    return drawing(parts, width, height, f"{title}. {told}")


class Spread(NamedTuple):
    """A row: its name, a mean, and the deviation shown as a bar on both sides."""

    name: str
    mean: float
    deviation: float = 0.0


def spread_rows(
    rows: Sequence[Spread], *, title: str, x_label: str, width: int = 440, largest: float | None = None
) -> Markup:
    """Returns an SVG of dots with bars on a linear axis; non-finite means are omitted.

    `largest` is the largest value that there can be, where axis and bars end.
    """
    known = [row for row in rows if math.isfinite(row.mean)]
    ends = [end for row in known for end in bar_ends(row.mean, row.deviation, largest)]
    if not ends:
        return tag("p", "Nothing to draw yet.", class_="empty")
    left, foot = max(len(row.name) for row in rows) * DIGIT + 14, ROW * len(rows) + 10
    axis = placed(linear_axis(min(ends), max(ends), max(int((width - left) // 60), 2), largest), left, width - RIGHT)
    parts: list[Markup] = []
    for tick in axis.ticks:
        x = f"{axis.at(tick):.1f}"
        parts.append(tag("line", class_="grid", x1=x, x2=x, y1=10, y2=foot))
        parts.append(text_at(tick_text(tick, axis.ticks), axis.at(tick), foot + 17, "middle"))
    for number, row in enumerate(rows):
        y = ROW * (number + 0.5) + 10
        parts.append(text_at(row.name, left - 7, y + 4, "end"))
        if row in known:
            low, high = (axis.at(end) for end in bar_ends(row.mean, row.deviation, largest))
            if row.deviation > 0:
                parts.append(whisker(low, y, high, y, "line"))
            parts.append(tag("circle", class_="mark points", r=4, cx=f"{axis.at(row.mean):.1f}", cy=f"{y:.1f}"))
    parts.append(text_at(x_label, (left + width - RIGHT) / 2, foot + FOOT - 6, "middle", "label"))
    told = " ".join(f"{row.name}: {row.mean:.4g}." for row in known)
    return drawing(parts, width, foot + FOOT, f"{title}. {told}")


def _row(row: Dots, at: float, ring: float | None, left: float, width: int, y: float) -> list[Markup]:
    told = tag("title", f"{row.name}: {row.full:,.0f}")
    parts = [text_at(row.name, left - 10, y + 4, "end"), text_at(row.note, width, y + 4, "end")]
    if ring is not None:
        parts.append(tag("line", class_="mark faint", x1=f"{at:.1f}", x2=f"{ring:.1f}", y1=f"{y:.1f}", y2=f"{y:.1f}"))
        parts.append(tag("circle", class_="mark points", cx=f"{ring:.1f}", cy=f"{y:.1f}", r=4))
    parts.append(tag("circle", told, class_="cell", cx=f"{at:.1f}", cy=f"{y:.1f}", r=4.5))
    return parts


def _key(full: str, ring: str, left: float) -> list[Markup]:
    parts = [tag("circle", class_="cell", cx=f"{left + 5:.1f}", cy=10, r=4.5), text_at(full, left + 14, 14, "start")]
    if ring:
        x = left + 14 + len(full) * DIGIT + 22
        parts.append(tag("circle", class_="mark points", cx=f"{x:.1f}", cy=10, r=4))
        parts.append(text_at(ring, x + 9, 14, "start"))
    return parts


def _size(value: float) -> str:
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
