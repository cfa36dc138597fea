"""Heat maps, and bars of two scores, as SVG text."""

import math
from collections.abc import Sequence

from prefix_jax.reporting.svg.axes import DIGIT
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.plots import RIGHT, TOP, drawing, text_at

# On a narrow screen the page enlarges the texts of a heat map, for which room is left.
_WIDE = DIGIT * 14 / 11
_ABOVE = TOP + 4
_LABEL = 22.0  # the height of the horizontal axis' label
_LEANING = 50  # degrees by which long names of columns are turned


def heat_map(
    values: Sequence[Sequence[float]],
    *,
    title: str,
    row_label: str,
    column_label: str,
    row_names: Sequence[object] | None = None,
    column_names: Sequence[object] | None = None,
    scale: tuple[float, float] | None = None,
    width: int = 440,
) -> Markup:
    """Returns an SVG of a matrix as shaded cells with a scale; each cell tells its number under the pointer.

    Args:
        values: rows of equally many numbers, of any unit.
        row_names, column_names: what the labels count; None: from 0.
        scale: the values of the faintest and the strongest shade, for maps on one scale; None: those of the matrix.
    """
    rows, columns = len(values), len(values[0])
    down = [str(name) for name in row_names or range(rows)]
    across = [str(name) for name in column_names or range(columns)]
    low, high = scale or limits([values])
    left = max(map(len, down)) * _WIDE + 28
    cell_w, cell_h = (width - left - RIGHT) / columns, min(max(150 / rows, 7.0), 24.0)
    foot = _ABOVE + rows * cell_h
    names, depth = _names_of_columns(across, left, cell_w, foot)
    parts: list[Markup] = [_scale(low, high, width)]
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            told = tag("title", f"{column_label} {across[j]}, {row_label} {down[i]}: {value:.3g}")
            x, y = f"{left + j * cell_w:.1f}", f"{_ABOVE + i * cell_h:.1f}"
            size = {"width": f"{max(cell_w - 1, 1):.1f}", "height": f"{max(cell_h - 1, 1):.1f}"}
            parts.append(
                tag("rect", told, class_="cell", x=x, y=y, rx=1.5, fill_opacity=_shade(value, low, high), **size)
            )
    parts += names
    for i in range(0, rows, max(math.ceil(17 / cell_h), 1)):
        parts.append(text_at(down[i], left - 6, _ABOVE + (i + 0.5) * cell_h + 4, "end"))
    height = foot + depth + _LABEL
    parts.append(text_at(column_label, (left + width - RIGHT) / 2, height - 5, "middle", "label"))
    turned = f"translate(12 {(_ABOVE + foot) / 2:.1f}) rotate(-90)"
    parts.append(tag("text", row_label, class_="label", text_anchor="middle", transform=turned))
    own_low, own_high = limits([values])
    told = f"{title}. {rows} by {columns} values from {own_low:.3g} to {own_high:.3g}."
    return drawing(parts, width, height, told, "chart heat")


def limits(matrices: Sequence[Sequence[Sequence[float]]]) -> tuple[float, float]:
    """Returns the smallest and the largest finite value of several matrices; 0 and 1 where there is none."""
    finite = [value for matrix in matrices for row in matrix for value in row if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def bar_pair(bare: float | None, tuned: float, largest: float | None = None, *, width: int = 200) -> Markup | None:
    """Returns two thin bars, the bare model's above the tuned one's, on a scale from zero to `largest`.

    Without a largest value the scale ends at the larger of the two; of a single value, which would fill it, there is
    nothing to show (None).
    """
    both = ((0, bare, "bare"), (10, tuned, "tuned"))
    known = [(y, value, kind) for y, value, kind in both if value is not None and math.isfinite(value)]
    if not largest and len(known) < 2:
        return None
    unit = width / (max([*(abs(value) for _, value, _ in known), largest or 0.0]) or 1.0)
    parts = []
    for y, value, kind in known:
        parts.append(tag("rect", class_="track", x=0, y=y, width=width, height=6, rx=3))
        length = max(abs(value) * unit, 2.0)
        parts.append(tag("rect", class_=f"bar {kind}", x=0, y=y, width=f"{length:.1f}", height=6, rx=3))
    attributes = {"class": "bars", "viewBox": f"0 0 {width} 16", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return tag("svg", *parts, **attributes)


def _shade(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "0"
    share = (value - low) / (high - low) if high > low else 0.5
    return f"{0.08 + 0.92 * min(max(share, 0.0), 1.0):.2f}"


def _names_of_columns(names: Sequence[str], left: float, cell: float, foot: float) -> tuple[list[Markup], float]:
    """The names of the columns, and the height that they take: numbers as many as find room, long words turned."""
    longest = max(map(len, names)) * _WIDE
    numbers = all(name.lstrip("-").isdigit() for name in names)
    if numbers or longest + _WIDE < cell:
        every = max(math.ceil((longest + _WIDE) / cell), 1)
        places = range(0, len(names), every)
        return [text_at(names[j], left + (j + 0.5) * cell, foot + 15, "middle") for j in places], 18.0
    every = max(math.ceil(17 / cell), 1)
    lean = math.radians(_LEANING)
    # A turned name starts at its column and reaches to the lower left, where there may be less room than it is long.
    texts = []
    for j in range(0, len(names), every):
        x = left + (j + 0.5) * cell
        room = int((x / math.cos(lean) - 4) / _WIDE)
        name = names[j] if len(names[j]) <= room else f"{names[j][: max(room - 1, 1)]}…"
        at = f"translate({x + 3:.1f} {foot + 10:.1f}) rotate(-{_LEANING})"
        texts.append(tag("text", name, class_="tick", text_anchor="end", transform=at))
    return texts, longest * math.sin(lean) + 14


def _scale(low: float, high: float, width: int) -> Markup:
    """The key of a heat map: five shades between its ends."""
    high_text, low_text = f"{high:.3g}", f"{low:.3g}"
    x = width - RIGHT - len(high_text) * _WIDE - 97
    cells = []
    for i in range(5):
        shade = f"{0.08 + 0.23 * i:.2f}"
        cells.append(tag("rect", class_="cell", x=f"{x + 18 * i:.1f}", y=3, width=17, height=10, fill_opacity=shade))
    return tag("g", text_at(low_text, x - 6, 12, "end"), cells, text_at(high_text, x + 96, 12, "start"))
