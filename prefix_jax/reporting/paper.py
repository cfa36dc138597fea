"""Figures as PDF for a paper, drawn by matplotlib: vectors, text as text, the size of a column."""

from typing import Any, BinaryIO

import matplotlib  # type: ignore[import-not-found]
from matplotlib.backends.backend_pdf import FigureCanvasPdf  # type: ignore[import-not-found]
from matplotlib.figure import Figure as Drawing  # type: ignore[import-not-found]
from matplotlib.text import Text  # type: ignore[import-not-found]

from prefix_jax.reporting.figures import Curves, Figure, Matrix
from prefix_jax.reporting.svg.axes import bar_ends
from prefix_jax.reporting.svg.markup import printable

# Inches: a column of most conferences; type 42 fonts, which they demand.
WIDTH, HEIGHT = 3.25, 2.2
STYLE: Any = {"pdf.fonttype": 42, "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
# Styles that differ without colour too.
_KINDS = {
    "line": {"color": "#0b6b74", "marker": "o", "linestyle": "-"},
    "points": {"color": "#1c1f22", "marker": "s", "linestyle": ":", "markerfacecolor": "white"},
    "faint": {"color": "#878d93", "marker": "^", "linestyle": "--"},
}


def write_pdf(figure: Figure, file: BinaryIO, caption: str) -> None:
    """Writes a figure that has a drawn form as a PDF."""
    assert figure.drawn is not None
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = drawing.add_subplot()
        if isinstance(figure.drawn, Curves):
            _curves(axes, figure.drawn)
        else:
            _matrix(drawing, axes, figure.drawn)
        for text in drawing.findobj(Text):
            text.set_text(printable(text.get_text()))
        metadata = {"Title": caption, "Creator": "prefix_jax", "CreationDate": None}
        FigureCanvasPdf(drawing).print_pdf(file, metadata=metadata)


def _curves(axes: Any, drawn: Curves) -> None:
    for one in drawn.series:
        style: dict[str, Any] = {**_KINDS[one.kind], "label": one.name, "linewidth": 1, "markersize": 3}
        if not (drawn.at_points or one.kind == "points" or len(one.x) == 1):
            style["marker"] = ""
        if any(one.spread):
            ends = [bar_ends(y, spread, drawn.largest) for y, spread in zip(one.y, one.spread, strict=True)]
            around = [[y - low for y, (low, _) in zip(one.y, ends)], [high - y for y, (_, high) in zip(one.y, ends)]]
            axes.errorbar(one.x, one.y, yerr=around, capsize=2, **style)
        else:
            axes.plot(one.x, one.y, **style)
    axes.set_xlabel(drawn.x_label + (", log scale" if drawn.log_x else ""))
    axes.set_ylabel(drawn.y_label + (", log scale" if drawn.log_y else ""))
    axes.set_xscale("log" if drawn.log_x else "linear")
    axes.set_yscale("log" if drawn.log_y else "linear")
    if drawn.at_points:
        x = sorted({value for one in drawn.series for value in one.x})
        axes.set_xticks(x, [f"{value:g}" for value in x], minor=False)
        axes.minorticks_off()
    if drawn.covers:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, *drawn.covers), max(high, *drawn.covers))
    if drawn.low is not None:
        axes.set_ylim(bottom=drawn.low)
    if drawn.largest is not None and axes.get_ylim()[1] > drawn.largest:
        axes.set_ylim(top=drawn.largest)
    if len(drawn.series) > 1:
        longest = max(len(one.name) for one in drawn.series)
        columns = len(drawn.series) if longest * len(drawn.series) < 40 else 1
        axes.figure.legend(loc="outside upper right", ncols=columns, frameon=False, fontsize=7)


def _matrix(drawing: Any, axes: Any, drawn: Matrix) -> None:
    low, high = drawn.scale
    shown = axes.imshow(drawn.values, vmin=low, vmax=high, cmap="GnBu", aspect="auto", interpolation="nearest")
    for names, set_ticks in ((drawn.column_names, axes.set_xticks), (drawn.row_names, axes.set_yticks)):
        every = -(-len(names) // 24)
        places = range(0, len(names), every)
        set_ticks(places, [printable(str(names[i])) for i in places], fontsize=6)
    if any(len(str(name)) > 3 for name in drawn.column_names):
        axes.tick_params(axis="x", labelrotation=60)
    axes.set_xlabel(drawn.column_label)
    axes.set_ylabel(drawn.row_label)
    drawing.colorbar(shown)
