"""Line charts as SVG text: pure functions of the data, coloured by the page's CSS classes, so that they turn dark with
it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prefix_jax.reporting.svg.axes import (
    DIGIT,
    Axis,
    bar_ends,
    linear_axis,
    log_axis,
    placed,
    point_axis,
    range_axis,
    tick_text,
)
from prefix_jax.reporting.svg.markup import Markup, tag

TOP, RIGHT, BOTTOM = 30.0, 14.0, 38.0
_BARE_TOP, _INSET = 12.0, 12.0
_LINE = 16.0  # the height of a line of text
_KEY, _GAP = 22.0, 14.0  # the width of a mark in the legend, and the space after an entry


@dataclass(frozen=True)
class Series:
    """One line of a chart. `y` may hold NaN, where the line is interrupted; `spread` draws a bar from y - s to y + s,
    but not across 0.

    `kind`: "line" (the accent), "faint" (behind it), "points" (marks joined by a thin line).
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Literal["line", "faint", "points"] = "line"
    spread: Sequence[float] = ()


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "",
    width: int = 330,
    height: int = 220,
    from_zero: bool = False,
    log: bool | None = None,
    at_points: bool = False,
    largest: float | None = None,
    covers: Sequence[float] = (),
) -> Markup:
    """Returns an SVG of lines over common axes, with ticks, legend and a description for screen readers.

    Args:
        width, height: in SVG units, which are CSS pixels at full size; the page scales the drawing to its column.
        from_zero: whether the vertical axis starts at zero.
        log: a logarithmic vertical axis; None: where the values span more than a factor of 8.
        at_points: a mark at each point, and horizontal ticks there; a logarithmic axis where they span a factor of 8.
        largest: the largest value that there can be, such as 100 %, where axis and bars end; None: there is none.
        covers: values that the vertical axis covers beside those of the lines, for charts on one scale.
    """
    series = [_thinned(one) for one in series]
    points = [(x, y) for one in series for x, y in zip(one.x, one.y) if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return tag("p", "Nothing to draw yet.", class_="empty")
    ends = [*spans(series, largest), *covers]
    low, high = min(ends), max(ends)
    log = is_logarithmic(ends, log, from_zero)
    y_axis = log_axis(low, high) if log else linear_axis(0.0 if from_zero else low, high, 5, largest)
    labels = [tick_text(tick, y_axis.ticks) for tick in y_axis.ticks]
    left = max(len(label) for label in labels) * DIGIT + 14
    legend, rows = _legend(series, width, y_axis.label(y_label), at_points)
    top = TOP + max(rows - 1, 0) * _LINE if rows or y_axis.label(y_label) else _BARE_TOP
    height += int(top - TOP)
    y_axis = placed(y_axis, height - BOTTOM, top)
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    x_axis = placed(range_axis(x_low, x_high, max(int((width - left) // 80), 2)), left, width - RIGHT)
    if at_points:
        # Marks and bars stay clear of the frame and its labels.
        x_axis = point_axis(sorted({x for x, _ in points}), left + _INSET, width - RIGHT - _INSET)
    parts: list[object] = [
        _grid(x_axis, y_axis, labels, (left, width - RIGHT), (width, height), (x_label, y_label)),
        legend,
    ]
    order = {"faint": 0, "line": 1, "points": 2}
    for one in sorted(series, key=lambda one: order[one.kind]):
        parts.extend(_bars(one, x_axis, y_axis, largest))
        parts.extend(_drawn(one, x_axis, y_axis, at_points))
    return drawing(parts, width, height, f"{title}. {_described(series, x_label)}")


def is_logarithmic(ends: Sequence[float], asked: bool | None, from_zero: bool) -> bool:
    """Returns whether the vertical axis of values is logarithmic: as asked, else where they span a factor of 8."""
    low, high = min(ends), max(ends)
    return (low > 0 and high / low > 8 and not from_zero) if asked is None else asked and low > 0


def spans(series: Sequence[Series], largest: float | None = None) -> list[float]:
    """Returns the lowest and the highest of each point's bar; nothing of values that are not finite."""
    found = []
    for one in series:
        spread = one.spread or [0.0] * len(one.y)
        found += [end for y, s in zip(one.y, spread) if math.isfinite(y) for end in bar_ends(y, s, largest)]
    return found


def smoothed(values: Sequence[float]) -> list[float]:
    """Returns the mean over a window of about a 25th of the values around each, so that the curve lags nothing.

    Towards the ends the window narrows evenly on both sides; NaN is skipped.
    """
    half, result = max(2, len(values) // 50), []
    known = [math.isfinite(value) for value in values]
    sums = list(accumulate((value if ok else 0.0 for value, ok in zip(values, known)), initial=0.0))
    counts = list(accumulate(known, initial=0))
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        start, end = i - reach, i + reach + 1
        count = counts[end] - counts[start]
        result.append((sums[end] - sums[start]) / count if count else math.nan)
    return result


def text_at(text: object, x: float, y: float, anchor: str, kind: str = "tick") -> Markup:
    """Returns a text of the drawing."""
    return tag("text", str(text), class_=kind, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def drawing(parts: Sequence[object], width: float, height: float, described: str, kind: str = "chart") -> Markup:
    """Returns an SVG with its description for screen readers."""
    attributes = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria_label": described}
    return tag("svg", *parts, class_=kind, **attributes)


def whisker(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Returns a deviation's bar, with a cap at each end."""
    across = (3.5, 0) if x1 == x2 else (0, 3.5)
    caps = "".join(
        f"M{x - across[0]:.1f},{y - across[1]:.1f}L{x + across[0]:.1f},{y + across[1]:.1f}"
        for x, y in ((x1, y1), (x2, y2))
    )
    return tag("path", class_=f"mark {kind} spread", d=f"M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}{caps}")


def _grid(
    x_axis: Axis,
    y_axis: Axis,
    labels: Sequence[str],
    sides: tuple[float, float],
    size: tuple[int, int],
    names: tuple[str, str],
) -> list[Markup]:
    """The frame between two sides of a drawing of a width and a height, with the names of both axes."""
    (left, right), (width, height) = sides, size
    across = {"x1": f"{left:.1f}", "x2": f"{right:.1f}"}
    parts = []
    for tick, label in zip(y_axis.ticks, labels):
        y = y_axis.at(tick)
        parts.append(tag("line", class_="grid", **across, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        parts.append(text_at(label, left - 7, y + 4, "end"))
    foot = y_axis.start
    parts.append(tag("line", class_="axis", **across, y1=f"{foot:.1f}", y2=f"{foot:.1f}"))
    for tick in x_axis.ticks:
        x, label = x_axis.at(tick), tick_text(tick, x_axis.ticks)
        # A label at the right end stays inside the drawing.
        anchor = "end" if x + len(label) * DIGIT / 2 > width else "middle"
        parts.append(tag("line", class_="axis", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{foot:.1f}", y2=f"{foot + 4:.1f}"))
        parts.append(text_at(label, min(x, width - 1), foot + 17, anchor))
    parts.append(text_at(x_axis.label(names[0]), (left + right) / 2, height - 4, "middle", "label"))
    if told := y_axis.label(names[1]):
        parts.append(text_at(told, 0, 12, "start", "label"))
    return parts


def _legend(series: Sequence[Series], width: int, beside: str, at_points: bool) -> tuple[list[Markup], int]:
    """The legend in the upper right corner, and its rows; the first is beside the vertical axis' label if it has room.

    The rows fill from the top; a row is one line of text high.
    """
    if len(series) < 2:
        return [], 0
    wide = lambda one: _KEY + len(one.name) * DIGIT + _GAP
    rows: list[list[Series]] = [[]]
    room = width - RIGHT + _GAP - (len(beside) * DIGIT + _GAP if beside else 0)
    for one in series:
        if sum(map(wide, rows[-1])) + wide(one) > room and (rows[-1] or beside):
            rows.append([])
            room = width - RIGHT + _GAP
        rows[-1].append(one)
    parts: list[Markup] = []
    for number, row in enumerate(rows):
        x, y = max(width - RIGHT + _GAP - sum(map(wide, row)), 0.0), number * _LINE
        for one in row:
            parts += _key(one, x, y, at_points)
            x += wide(one)
    return parts, len(rows)


def _key(one: Series, x: float, y: float, at_points: bool) -> list[Markup]:
    parts = []
    if one.kind != "points":
        ends = {"x1": f"{x:.1f}", "x2": f"{x + 18:.1f}", "y1": f"{y + 8:g}", "y2": f"{y + 8:g}"}
        parts.append(tag("line", class_=f"mark {one.kind}", **ends))
    if one.kind == "points" or at_points:
        parts.append(tag("circle", class_=f"mark {one.kind}", cx=f"{x + 9:.1f}", cy=f"{y + 8:g}", r=3.5))
    return [*parts, text_at(one.name, x + _KEY, y + 12, "start")]


def _bars(one: Series, x_axis: Axis, y_axis: Axis, largest: float | None) -> list[Markup]:
    parts = []
    for x, y, spread in zip(one.x, one.y, one.spread):
        if math.isfinite(y) and spread > 0:
            place, ends = x_axis.at(x), [y_axis.at(end) for end in bar_ends(y, spread, largest)]
            parts.append(whisker(place, ends[0], place, ends[1], one.kind))
    return parts


def _drawn(one: Series, x_axis: Axis, y_axis: Axis, at_points: bool) -> list[Markup]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(one.x, one.y):
        if math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    parts = []
    for piece in pieces:
        path = "L".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in piece)
        if len(piece) > 1:
            parts.append(tag("path", class_=f"mark {one.kind}", d=f"M{path}"))
        if one.kind == "points" or at_points or len(piece) == 1:
            for x, y in piece:
                told = tag("title", f"{one.name} {y:.4g} at {x:,g}")
                place = {"cx": f"{x_axis.at(x):.1f}", "cy": f"{y_axis.at(y):.1f}"}
                parts.append(tag("circle", told, class_=f"mark {one.kind}", r=3.5 if len(piece) < 60 else 2, **place))
    return parts


def _described(series: Sequence[Series], x_label: str) -> str:
    told = []
    for one in series:
        known = [(x, y) for x, y in zip(one.x, one.y) if math.isfinite(y)]
        if (known and one.kind != "faint") or (len(series) == 1 and known):
            (x0, y0), (x1, y1) = known[0], known[-1]
            told.append(f"{one.name}: {y0:.4g} at {x_label} {x0:,g}, {y1:.4g} at {x_label} {x1:,g}.")
    return " ".join(told)


def _thinned(one: Series, limit: int = 800) -> Series:
    """Keeps a chart of a long run small: every k-th point and the last one."""
    k = math.ceil(len(one.x) / limit)
    if k <= 1:
        return one
    keep = sorted({*range(0, len(one.x), k), len(one.x) - 1})
    return Series(
        one.name,
        [one.x[i] for i in keep],
        [one.y[i] for i in keep],
        one.kind,
        [one.spread[i] for i in keep] if one.spread else (),
    )
