"""Plots as SVG text: pure functions of the data, coloured by the page's CSS classes, so that they turn dark with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prefix_jax.reporting.svg.markup import Markup, tag

# Text is 11 units high; a digit of it is this wide.
DIGIT = 6.4
TOP, RIGHT, BOTTOM = 30.0, 14.0, 38.0


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


@dataclass(frozen=True)
class Axis:
    """A mapping of data to units of the drawing, with its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = math.log(max(value, 1e-300)) if self.log else value
        return self.start + (self.end - self.start) * (value - low) / (high - low)


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
) -> Markup:
    """Returns an SVG of lines over common axes, with ticks, legend and a description for screen readers.

    Args:
        width, height: in SVG units, which are CSS pixels at full size; the page scales the drawing to its column.
        from_zero: whether the vertical axis starts at zero.
        log: a logarithmic vertical axis; None: where the values span more than a factor of 8.
        at_points: horizontal ticks at the points themselves, on a logarithmic axis where they span a factor of 8.
    """
    series = [_thinned(one) for one in series]
    points = [(x, y) for one in series for x, y in zip(one.x, one.y) if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return tag("p", "Nothing to draw yet.", class_="empty")
    ends = [end for one in series for end in _ends(one)]
    low, high = min(ends), max(ends)
    log = (low > 0 and high / low > 8 and not from_zero) if log is None else log and low > 0
    y_axis = log_axis(low, high) if log else linear_axis(0.0 if from_zero else low, high, 5)
    labels = [tick_text(tick, y_axis.ticks) for tick in y_axis.ticks]
    left = max(len(label) for label in labels) * DIGIT + 14
    y_axis = placed(y_axis, height - BOTTOM, TOP)
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    x_axis = placed(_range_axis(x_low, x_high, max(int((width - left) // 80), 2)), left, width - RIGHT)
    if at_points:
        x_axis = _point_axis(sorted({x for x, _ in points}), left + 12, width - RIGHT - 12)
    parts = [_grid(x_axis, y_axis, labels, width, height, x_label, y_label), _legend(series, left, width)]
    order = {"faint": 0, "line": 1, "points": 2}
    parts.extend(_drawn(one, x_axis, y_axis) for one in sorted(series, key=lambda one: order[one.kind]))
    return drawing(parts, width, height, f"{title}. {_described(series, x_label)}")


def heat_map(
    values: Sequence[Sequence[float]],
    *,
    title: str,
    row_label: str,
    column_label: str,
    row_names: Sequence[object] | None = None,
    column_names: Sequence[object] | None = None,
    width: int = 440,
) -> Markup:
    """Returns an SVG of a matrix as shaded cells with a scale; each cell tells its number under the pointer.

    Args:
        values: rows of equally many numbers, of any unit.
        row_names, column_names: what the labels count; None: from 0.
    """
    rows, columns = len(values), len(values[0])
    row_names, column_names = row_names or range(rows), column_names or range(columns)
    finite = [value for row in values for value in row if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    left = max(len(str(name)) for name in row_names) * DIGIT + 26
    cell_w, cell_h = (width - left - RIGHT) / columns, min(max(150 / rows, 7.0), 24.0)
    height = TOP + rows * cell_h + BOTTOM
    parts: list[Markup] = [_scale(low, high, width)]
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            share = (value - low) / (high - low) if high > low else 0.5
            told = tag("title", f"{column_label} {column_names[j]}, {row_label} {row_names[i]}: {value:.3g}")
            x, y = f"{left + j * cell_w:.1f}", f"{TOP + i * cell_h:.1f}"
            shade = f"{0.08 + 0.92 * share:.2f}" if math.isfinite(value) else "0"
            size = {"width": f"{max(cell_w - 1, 1):.1f}", "height": f"{max(cell_h - 1, 1):.1f}"}
            parts.append(tag("rect", told, class_="cell", x=x, y=y, rx=1.5, fill_opacity=shade, **size))
    for j in range(0, columns, max(math.ceil(24 / cell_w), 1)):
        parts.append(text_at(column_names[j], left + (j + 0.5) * cell_w, height - BOTTOM + 14, "middle"))
    for i in range(0, rows, max(math.ceil(14 / cell_h), 1)):
        parts.append(text_at(row_names[i], left - 6, TOP + (i + 0.5) * cell_h + 4, "end"))
    parts.append(text_at(column_label, (left + width - RIGHT) / 2, height - 6, "middle", "label"))
    middle = TOP + rows * cell_h / 2
    turned = f"translate(11 {middle:.1f}) rotate(-90)"
    parts.append(tag("text", row_label, class_="label", text_anchor="middle", transform=turned))
    told = f"{title}. {rows} by {columns} values from {low:.3g} to {high:.3g}."
    return drawing(parts, width, height, told)


def bar_pair(bare: float | None, tuned: float, largest: float | None = None, *, width: int = 200) -> Markup:
    """Returns two thin bars, the bare model's above the tuned one's, on a scale from zero to `largest`.

    None: to the larger of the two.
    """
    known = [abs(value) for value in (bare, tuned) if value is not None and math.isfinite(value)]
    unit = width / (max([*known, largest or 0.0]) or 1.0)
    parts = []
    for y, value, kind in ((0, bare, "bare"), (10, tuned, "tuned")):
        if value is not None and math.isfinite(value):
            parts.append(tag("rect", class_="track", x=0, y=y, width=width, height=6, rx=3))
            length = max(abs(value) * unit, 2.0)
            parts.append(tag("rect", class_=f"bar {kind}", x=0, y=y, width=f"{length:.1f}", height=6, rx=3))
    attributes = {"class": "bars", "viewBox": f"0 0 {width} 16", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return tag("svg", *parts, **attributes)


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


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Returns about `count` round numbers (1, 2, 2.5, 5 times a power of ten) between `low` and `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Returns a tick's label, with as many decimals as its neighbours need."""
    largest = max(abs(tick) for tick in ticks)
    if value == 0:
        return "0"
    if largest < 1e-3:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    if largest >= 1e6 and value >= 1e5:
        return f"{value / 1e6:g}M"
    return f"{value:,.10g}"


def linear_axis(low: float, high: float, count: int) -> Axis:
    """Returns an axis with about `count` round ticks, from one of them to another."""
    if high == low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    ticks = nice_ticks(low, high, count)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Axis(low, high, 0.0, 1.0, tuple(nice_ticks(low, high, round((high - low) / step))))


def _range_axis(low: float, high: float, count: int) -> Axis:
    """Exactly from `low` to `high`: steps need no margin. A single one gets room on both sides."""
    if high == low:
        return Axis(low - 1, high + 1, 0.0, 1.0, (low,))
    return Axis(low, high, 0.0, 1.0, tuple(nice_ticks(low, high, count)))


def _point_axis(points: Sequence[float], start: float, end: float) -> Axis:
    """An axis with its ticks at the points, as far as their labels find room."""
    low, high = points[0], points[-1]
    if low == high:
        return placed(_range_axis(low, high, 1), start, end)
    axis = Axis(low, high, start, end, (), log=low > 0 and high / low > 8)
    ticks: list[float] = []
    for point in points:
        if not ticks or axis.at(point) - axis.at(ticks[-1]) > (len(tick_text(point, points)) + 1) * DIGIT:
            ticks.append(point)
    return Axis(low, high, start, end, tuple(ticks), axis.log)


def _ends(one: Series) -> list[float]:
    """The lowest and the highest of each point's bar."""
    spread = one.spread or [0.0] * len(one.y)
    return [end for y, s in zip(one.y, spread) if math.isfinite(y) for end in bar_ends(y, s)]


def bar_ends(y: float, spread: float) -> tuple[float, float]:
    """Returns the ends of a deviation's bar, cut at 0 where the value is not below it: scores and losses are not."""
    low = y - spread
    return (max(low, 0.0) if y >= 0 else low), y + spread


def log_axis(low: float, high: float) -> Axis:
    """Returns a logarithmic axis with ticks at 1, 2 and 5 times powers of ten, or at the powers alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    every = [float(f"{factor}e{power}") for power in powers for factor in steps]
    low = max((tick for tick in every if tick <= low), default=low)
    high = min((tick for tick in every if tick >= high), default=high)
    if high == low:
        low, high = low / 2, high * 2
    return Axis(low, high, 0.0, 1.0, tuple(tick for tick in every if low <= tick <= high), log=True)


def placed(axis: Axis, start: float, end: float) -> Axis:
    """Returns the axis between two places of the drawing."""
    return Axis(axis.low, axis.high, start, end, axis.ticks, axis.log)


def _grid(
    x_axis: Axis, y_axis: Axis, labels: Sequence[str], width: int, height: int, x_label: str, y_label: str
) -> list[Markup]:
    left, right = f"{x_axis.start:.1f}", f"{x_axis.end:.1f}"
    parts = []
    for tick, label in zip(y_axis.ticks, labels):
        y = y_axis.at(tick)
        parts.append(tag("line", class_="grid", x1=left, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        parts.append(text_at(label, x_axis.start - 7, y + 4, "end"))
    foot = y_axis.start
    parts.append(tag("line", class_="axis", x1=left, x2=right, y1=f"{foot:.1f}", y2=f"{foot:.1f}"))
    for tick in x_axis.ticks:
        x, label = x_axis.at(tick), tick_text(tick, x_axis.ticks)
        # A label at the right end stays inside the drawing.
        anchor = "end" if x + len(label) * DIGIT / 2 > width else "middle"
        parts.append(tag("line", class_="axis", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{foot:.1f}", y2=f"{foot + 4:.1f}"))
        parts.append(text_at(label, min(x, width - 1), foot + 17, anchor))
    parts.append(text_at(x_label, (x_axis.start + x_axis.end) / 2, height - 4, "middle", "label"))
    if y_label:
        parts.append(text_at(y_label, 0, 12, "start", "label"))
    return parts


def _legend(series: Sequence[Series], left: float, width: int) -> list[Markup]:
    if len(series) < 2:
        return []
    parts: list[Markup] = []
    x = width - RIGHT - sum(len(one.name) * DIGIT + 36 for one in series) + 14
    for one in series:
        x = max(x, 0)
        if one.kind == "points":
            parts.append(tag("circle", class_="mark points", cx=f"{x + 9:.1f}", cy=8, r=3.5))
        else:
            parts.append(tag("line", class_=f"mark {one.kind}", x1=f"{x:.1f}", x2=f"{x + 18:.1f}", y1=8, y2=8))
        parts.append(text_at(one.name, x + 22, 12, "start"))
        x += len(one.name) * DIGIT + 36
    return parts


def _drawn(one: Series, x_axis: Axis, y_axis: Axis) -> list[Markup]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(one.x, one.y):
        if math.isfinite(y):
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    parts = []
    for x, y, spread in zip(one.x, one.y, one.spread):
        if math.isfinite(y) and spread > 0:
            place, ends = f"{x_axis.at(x):.1f}", [f"{y_axis.at(end):.1f}" for end in bar_ends(y, spread)]
            parts.append(tag("line", class_=f"mark {one.kind} spread", x1=place, x2=place, y1=ends[0], y2=ends[1]))
    for piece in pieces:
        path = "L".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in piece)
        if len(piece) > 1:
            parts.append(tag("path", class_=f"mark {one.kind}", d=f"M{path}"))
        if one.kind == "points" or len(piece) == 1:
            for x, y in piece:
                told = tag("title", f"{one.name} {y:.4g} at {x:,g}")
                place = {"cx": f"{x_axis.at(x):.1f}", "cy": f"{y_axis.at(y):.1f}"}
                parts.append(tag("circle", told, class_="mark points", r=3.5 if len(piece) < 60 else 2, **place))
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


def _scale(low: float, high: float, width: int) -> Markup:
    """The key of a heat map: five shades between its ends."""
    high_text, low_text = f"{high:.3g}", f"{low:.3g}"
    x = width - RIGHT - len(high_text) * DIGIT - 96
    cells = []
    for i in range(5):
        shade = f"{0.08 + 0.23 * i:.2f}"
        cells.append(tag("rect", class_="cell", x=f"{x + 18 * i:.1f}", y=3, width=17, height=10, fill_opacity=shade))
    return tag("g", text_at(low_text, x - 6, 12, "end"), cells, text_at(high_text, width - RIGHT, 12, "end"))


def text_at(text: object, x: float, y: float, anchor: str, kind: str = "tick") -> Markup:
    """Returns a text of the drawing."""
    return tag("text", str(text), class_=kind, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def drawing(parts: Sequence[object], width: float, height: float, described: str) -> Markup:
    """Returns an SVG with its description for screen readers."""
    attributes = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria_label": described}
    return tag("svg", *parts, class_="chart", **attributes)
