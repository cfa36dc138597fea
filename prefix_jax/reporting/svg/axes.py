"""Axes of plots: from numbers to places of the drawing, with round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

# Text is 11 units high; a digit of it is this wide.
DIGIT = 6.4
LOG = "log scale"


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

    def label(self, text: str) -> str:
        """Returns the axis' label, which names a logarithmic scale."""
        return ", ".join(part for part in (text, LOG if self.log else "") if part)


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


def linear_axis(low: float, high: float, count: int, largest: float | None = None) -> Axis:
    """Returns an axis with about `count` round ticks, from one of them to another, but not beyond `largest`."""
    if high == low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    ticks = nice_ticks(low, high, count)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    high = high if largest is None else max(min(high, largest), low + step)
    return Axis(low, high, 0.0, 1.0, tuple(nice_ticks(low, high, max(round((high - low) / step), 1))))


def range_axis(low: float, high: float, count: int) -> Axis:
    """Returns an axis exactly from `low` to `high`: steps need no margin. A single one gets room on both sides."""
    if high == low:
        return Axis(low - 1, high + 1, 0.0, 1.0, (low,))
    return Axis(low, high, 0.0, 1.0, tuple(nice_ticks(low, high, count)))


def point_axis(points: Sequence[float], start: float, end: float) -> Axis:
    """Returns an axis with its ticks at the points, as far as their labels find room."""
    low, high = points[0], points[-1]
    if low == high:
        return placed(range_axis(low, high, 1), start, end)
    axis = Axis(low, high, start, end, (), log=low > 0 and high / low > 8)
    ticks: list[float] = []
    for point in points:
        if not ticks or axis.at(point) - axis.at(ticks[-1]) > (len(tick_text(point, points)) + 1) * DIGIT:
            ticks.append(point)
    return Axis(low, high, start, end, tuple(ticks), axis.log)


def bar_ends(y: float, spread: float, largest: float | None = None) -> tuple[float, float]:
    """Returns the ends of a deviation's bar, cut at 0 where the value is not below it: scores and losses are not.

    It is cut at `largest` too, the largest value that there can be.
    """
    low, high = y - spread, y + spread
    return (max(low, 0.0) if y >= 0 else low), (high if largest is None else max(min(high, largest), y))


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
    return replace(axis, start=start, end=end)
