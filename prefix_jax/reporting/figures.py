"""Figures of a report: a plot with its caption, and its numbers as a table for other programs."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from prefix_jax.reporting.svg.attention_map import attention_map
from prefix_jax.reporting.svg.heat import heat_map, limits
from prefix_jax.reporting.svg.markup import Markup, join, printable, tag
from prefix_jax.reporting.svg.page import scrolling
from prefix_jax.reporting.svg.plots import Series, is_logarithmic, line_chart, spans

# A page carries the numbers of a figure of so many rows; those of a larger one are written by `report --figures`.
_MOST_ROWS = 3000
WIDE, NARROW, PAGE = 440, 330, 980


@dataclass(frozen=True)
class Curves:
    """What a line chart draws, for other programs: see `line_chart`."""

    series: Sequence[Series]
    x_label: str
    y_label: str
    log_x: bool
    log_y: bool
    at_points: bool
    low: float | None = None
    largest: float | None = None
    covers: Sequence[float] = ()


@dataclass(frozen=True)
class Matrix:
    """What a heat map draws: values by row and column, with the ends of its scale."""

    values: Sequence[Sequence[float]]
    row_names: Sequence[object]
    column_names: Sequence[object]
    row_label: str
    column_label: str
    scale: tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """A plot of a report.

    Attributes:
      name: of its files, such as "loss".
      title: above it.
      chart: the plot; None: its numbers cannot be drawn, for which `told` gives the reason.
      columns, rows: its numbers.
      told: a sentence below the title.
      drawn: what the chart draws; None: it has no form but the chart.
      narrow: the plot for narrow screens; None: the same.
      whole: whether it takes the width of the page.
      scrolls: whether it keeps its size on narrow screens, where it scrolls.
    """

    name: str
    title: str
    chart: Markup | None
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    told: str = ""
    drawn: Curves | Matrix | None = None
    narrow: Markup | None = None
    whole: bool = False
    scrolls: bool = False

    @property
    def stem(self) -> str:
        """The name of its files without an ending; parts of a name may come from data."""
        return re.sub(r"[^\w-]+", "_", printable(self.name)).strip("_")[:100] or "figure"

    def csv(self) -> str:
        """Returns the numbers as CSV; what is not finite is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([_cell(name) for name in self.columns])
        writer.writerows([[_cell(value) for value in row] for row in self.rows])
        return text.getvalue()


def lines(
    name: str,
    title: str,
    series: Sequence[Series],
    *,
    told: str = "",
    whole: bool = False,
    width: int = WIDE,
    x_label: str = "step",
    y_label: str = "",
    **options: Any,
) -> Figure:
    """Returns a line chart (see `line_chart` for the options), which is drawn once more for narrow screens."""
    shared = {"title": title, "x_label": x_label, **options}
    wide = line_chart(series, y_label=y_label, width=width, **shared)
    narrow = None
    if width > NARROW:
        shared.pop("height", None)
        narrow = line_chart(series, y_label=y_label, width=NARROW, **shared)
    spread = any(one.spread for one in series)
    rows = [
        [one.name, x, y, *([one.spread[i] if one.spread else 0.0] if spread else [])]
        for one in series
        for i, (x, y) in enumerate(zip(one.x, one.y))
    ]
    columns = ["series", x_label, y_label or title, *(["standard deviation"] if spread else [])]
    drawn = _curves(series, x_label, y_label or title, options)
    return Figure(name, title, wide, columns, rows, told, drawn, narrow, whole)


def _curves(series: Sequence[Series], x_label: str, y_label: str, options: Mapping[str, Any]) -> Curves | None:
    ends = spans(series, options.get("largest"))
    if not ends:
        return None
    at_points, from_zero = bool(options.get("at_points")), bool(options.get("from_zero"))
    x = sorted({value for one in series for value in one.x})
    log_x = at_points and x[0] > 0 and x[-1] / x[0] > 8
    log_y = is_logarithmic([*ends, *options.get("covers", ())], options.get("log"), from_zero)
    low = 0.0 if from_zero else None
    covers = options.get("covers", ())
    return Curves(series, x_label, y_label, log_x, log_y, at_points, low, options.get("largest"), covers)


def heat(
    name: str,
    title: str,
    values: Sequence[Sequence[float]],
    *,
    row_label: str,
    column_label: str,
    row_names: Sequence[object] | None = None,
    column_names: Sequence[object] | None = None,
    scale: tuple[float, float] | None = None,
    told: str = "",
) -> Figure:
    """Returns a heat map (see `heat_map`)."""
    labels: dict[str, Any] = {"row_label": row_label, "column_label": column_label}
    row_names, column_names = row_names or range(len(values)), column_names or range(len(values[0]))
    chart = heat_map(values, title=title, row_names=row_names, column_names=column_names, scale=scale, **labels)
    rows = [[a, b, value] for a, row in zip(row_names, values) for b, value in zip(column_names, row)]
    drawn = Matrix(values, row_names, column_names, row_label, column_label, scale or limits([values]))
    return Figure(name, title, chart, [row_label, column_label, "value"], rows, told, drawn)


def attention(
    name: str, title: str, weights: Sequence[Sequence[float]], slots: int, queries: Sequence[str], keys: Sequence[str]
) -> Figure:
    """Returns the attention of one head (see `attention_map`)."""
    chart = attention_map(weights, slots, queries, keys, title=title)
    rows = [[query, *row] for query, row in zip(queries, weights)]
    drawn = Matrix(weights, queries, keys, "query", "key", (0.0, 1.0))
    return Figure(name, title, chart, ["query", *keys], rows, drawn=drawn, scrolls=True)


def card(figure: Figure) -> Markup:
    """Returns a figure of the page, with a link to its numbers."""
    caption = tag("figcaption", _data(figure), tag("h3", figure.title), tag("p", figure.told) if figure.told else None)
    kind = "card whole" if figure.whole else "card"
    return tag("figure", caption, _drawn(figure), class_=kind)


def _drawn(figure: Figure) -> Markup | None:
    if figure.chart is None or figure.narrow is None:
        return figure.chart if figure.chart is None or not figure.scrolls else scrolling(figure.chart, figure.title)
    wide, narrow = tag("div", figure.chart, class_="wide"), tag("div", figure.narrow, class_="narrow")
    return join([wide, narrow])


def _data(figure: Figure) -> Markup | None:
    if not 0 < len(figure.rows) <= _MOST_ROWS:
        return None
    href = f"data:text/csv;charset=utf-8,{quote(figure.csv())}"
    told = f"The numbers of: {figure.title}, as CSV"
    return tag("a", "CSV", class_="data", download=f"{figure.stem}.csv", href=href, aria_label=told)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else ""
    return printable(value) if isinstance(value, str) else value
