"""Histograms as SVG text."""

from collections.abc import Sequence

from prefix_jax.reporting.svg.axes import DIGIT, linear_axis, placed, tick_text
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.plots import BOTTOM, RIGHT, TOP, drawing, text_at


def bars(
    counts: Sequence[Sequence[int]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: int = 440,
    height: int = 220,
) -> Markup:
    """Returns an SVG of a histogram.

    Args:
        counts: first value, last value and count of each bar, in order, of equal widths.
    """
    low, high = counts[0][0], counts[-1][1] + 1
    y_axis = linear_axis(0.0, float(max(count for _, _, count in counts)), 4)
    labels = [tick_text(tick, y_axis.ticks) for tick in y_axis.ticks]
    left = max(map(len, labels)) * DIGIT + 14
    y_axis = placed(y_axis, height - BOTTOM, TOP)
    at = lambda value: left + (width - RIGHT - left) * (value - low) / (high - low)
    parts: list[Markup] = [text_at(y_label, 0, 12, "start", "label")]
    for tick, label in zip(y_axis.ticks, labels, strict=True):
        y = f"{y_axis.at(tick):.1f}"
        parts.append(tag("line", class_="grid", x1=f"{left:.1f}", x2=width - RIGHT, y1=y, y2=y))
        parts.append(text_at(label, left - 7, y_axis.at(tick) + 4, "end"))
    for first, last, count in counts:
        told = tag("title", f"{first:,} to {last:,}: {count:,}" if last > first else f"{first:,}: {count:,}")
        top = y_axis.at(count)
        size = {"width": f"{max(at(last + 1) - at(first) - 1, 1):.1f}", "height": f"{height - BOTTOM - top:.1f}"}
        parts.append(tag("rect", told, class_="cell", x=f"{at(first):.1f}", y=f"{top:.1f}", **size))
    for first, last, _ in counts[:: max(1, -(-len(counts) // 6))]:
        parts.append(text_at(f"{first:,}", (at(first) + at(last + 1)) / 2, height - BOTTOM + 17, "middle"))
    parts.append(text_at(x_label, (left + width - RIGHT) / 2, height - 4, "middle", "label"))
    return drawing(
        parts, width, height, f"{title}. {sum(count for _, _, count in counts):,} from {low:,} to {high - 1:,}."
    )
