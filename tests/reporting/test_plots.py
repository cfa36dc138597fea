"""SVG plots: well-formed, inside their frame, with the numbers where they belong."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from prefix_jax.reporting.svg.axes import nice_ticks, tick_text
from prefix_jax.reporting.svg.heat import bar_pair, heat_map
from prefix_jax.reporting.svg.plots import Series, line_chart, smoothed


def chart(*series: Series, **options) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(series, title="Loss", **options))


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    (path,) = element.findall(".//path")
    return [tuple(map(float, pair.split(","))) for pair in path.attrib["d"][1:].split("L")]


def labels(element: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in element.iter("text") if text.attrib["class"] == "tick"]


def test_a_line_falls_where_the_numbers_fall():
    drawn = points(chart(Series("loss", [0, 50, 100], [3.0, 1.0, 2.0]), log=False))
    (x0, y0), (x1, y1), (x2, y2) = drawn
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y0, abs=0.2) and y0 < y2 < y1


def test_everything_stays_inside_the_frame():
    element = chart(Series("a", list(range(1, 5001)), [1e4 / i for i in range(1, 5001)]), width=400, height=200)
    assert element.attrib["viewBox"] == "0 0 400 200"
    assert all(0 <= x <= 400 and 0 <= y <= 200 for x, y in points(element))
    assert len(points(element)) <= 801


def test_a_wide_range_gets_a_logarithmic_axis():
    values = [100.0, 10.0, 1.0]
    (_, a), (_, b), (_, c) = points(chart(Series("loss", [1, 2, 3], values)))
    assert b - a == pytest.approx(c - b, abs=0.2)
    assert {"1", "10", "100"} <= set(labels(chart(Series("loss", [1, 2, 3], values))))


def test_nan_interrupts_a_line():
    element = chart(Series("loss", [1, 2, 3, 4, 5], [1.0, 2.0, math.nan, 2.0, math.inf]))
    assert len(element.findall(".//path")) == 1
    assert len([mark for mark in element.iter("circle")]) == 1


@pytest.mark.parametrize("y", [[0.0], [5.0, 5.0], [-3.0, 3.0], [1e-9, 2e-9], [1e12, 2e12], [0.0, 0.0]])
def test_odd_ranges_are_drawn(y):
    for options in ({}, {"from_zero": True}, {"log": True}):
        text = line_chart([Series("a", list(range(len(y))), y)], title="t", **options)
        ElementTree.fromstring(text)
        assert "nan" not in text and "inf" not in text


def test_nothing_finite_says_so():
    assert "Nothing to draw" in line_chart([Series("a", [1], [math.nan])], title="t")
    assert "Nothing to draw" in line_chart([], title="t")


def test_a_chart_tells_its_content_and_escapes_it():
    element = chart(Series('<b>"x"', [1, 2], [3.0, 1.5]), Series("other", [1, 2], [1.0, 2.0], kind="points"))
    assert element.attrib["role"] == "img"
    assert '<b>"x": 3 at step 1, 1.5 at step 2.' in element.attrib["aria-label"]
    assert [title.text for title in element.iter("title")] == ["other 1 at 1", "other 2 at 2"]


def test_a_heat_map_shades_by_value():
    values = [[0.0, 1.0, 2.0], [3.0, 4.0, math.nan]]
    element = ElementTree.fromstring(
        heat_map(values, title="keys", row_label="head", column_label="layer", column_names=(2, 5, 7))
    )
    cells = [cell for cell in element.iter("rect") if cell.find("title") is not None]
    shades = [float(cell.attrib["fill-opacity"]) for cell in cells]
    assert shades == [0.08, 0.31, 0.54, 0.77, 1.0, 0.0]
    assert cells[4].find("title").text == "layer 5, head 1: 4"
    assert element.attrib["aria-label"] == "keys. 2 by 3 values from 0 to 4."
    width, height = map(float, element.attrib["viewBox"].split()[2:])
    for cell in cells:
        assert float(cell.attrib["x"]) + float(cell.attrib["width"]) <= width
        assert float(cell.attrib["y"]) + float(cell.attrib["height"]) <= height


@pytest.mark.parametrize("shape", [(1, 1), (3, 30), (32, 80)])
def test_heat_maps_of_any_size(shape):
    rows, columns = shape
    values = [[1.0] * columns] * rows
    text = heat_map(values, title="t", row_label="head", column_label="layer")
    assert len(re.findall("<title>", text)) == rows * columns
    ElementTree.fromstring(text)


def test_bars_share_a_scale():
    element = ElementTree.fromstring(bar_pair(25.0, 100.0))
    assert [bar.attrib["width"] for bar in element if "bar" in bar.attrib["class"].split()] == ["50.0", "200.0"]
    assert len(ElementTree.fromstring(bar_pair(None, 3.0, 10.0))) == 2
    assert bar_pair(None, 3.0) is None  # it would fill its own scale
    ElementTree.fromstring(bar_pair(0.0, 0.0))
    element = ElementTree.fromstring(bar_pair(2.5, 5.0, 100.0))
    assert [bar.attrib["width"] for bar in element if "bar" in bar.attrib["class"].split()] == ["5.0", "10.0"]


def test_smoothing_keeps_straight_lines_and_ends():
    assert smoothed([float(i) for i in range(100)]) == pytest.approx(range(100))
    assert smoothed([1.0, math.nan, 3.0])[1] == 2.0
    assert smoothed([]) == [] and math.isnan(smoothed([math.nan])[0])


@pytest.mark.parametrize("low, high", [(0, 1), (0.3, 0.9), (10, 4000), (-5, 5), (1e-6, 5e-6), (0, 123456789)])
def test_ticks_are_round_and_inside(low, high):
    ticks = nice_ticks(low, high, 5)
    assert 3 <= len(ticks) <= 7 and low <= ticks[0] and ticks[-1] <= high
    assert all(len(f"{tick:g}".strip("-0.").replace(".", "").split("e")[0].rstrip("0")) <= 3 for tick in ticks)


def test_tick_labels():
    assert [tick_text(x, [0, 5000]) for x in (0, 2500.0)] == ["0", "2,500"]
    assert tick_text(5e-05, [0, 5e-05]) == "5e-5"
    assert tick_text(2.5e6, [5e6]) == "2.5M"


POINTS = Series("a", [1, 4, 12, 32], [95.0, 97.0, 99.0, 98.0], "line", [8.0, 1.0, 3.0, 1.0])


def places(element: ElementTree.Element, kind: str) -> list[list[tuple[float, float]]]:
    """The points of each path of a kind."""
    paths = [path.attrib["d"] for path in element.iter("path") if kind in path.attrib["class"].split()]
    return [[tuple(map(float, pair.split(","))) for pair in re.findall(r"[-\d.]+,[-\d.]+", path)] for path in paths]


def test_an_axis_of_percent_ends_at_100_and_so_do_bars():
    assert "105" in labels(chart(POINTS, log=False, at_points=True))
    element = chart(POINTS, log=False, at_points=True, largest=100.0)
    assert max(map(float, labels(element)[:-4])) == 100.0
    top = min(float(line.attrib["y1"]) for line in element.iter("line") if line.attrib["class"] == "grid")
    bars = places(element, "spread")
    assert len(bars) == 4 and min(y for bar in bars for _, y in bar) == pytest.approx(top, abs=0.1)


def test_bars_are_drawn_over_the_axes_and_clear_of_the_frame():
    element = chart(POINTS, log=False, at_points=True, largest=100.0)
    kinds = [part.attrib.get("class", "") for part in element]
    assert max(i for i, kind in enumerate(kinds) if kind in ("axis", "grid")) < kinds.index("mark line spread")
    frame = next(line for line in element.iter("line") if line.attrib["class"] == "axis")
    left, right = float(frame.attrib["x1"]), float(frame.attrib["x2"])
    x = [x for bar in places(element, "spread") for x, _ in bar]
    assert left + 5 < min(x) and max(x) < right - 5
    for bar in places(element, "spread"):  # the bar, and a cap at each end
        assert len(bar) == 6 and bar[3][0] - bar[2][0] == pytest.approx(7, abs=0.11)


@pytest.mark.parametrize("kind", ["line", "faint", "points"])
def test_each_point_has_a_mark_of_its_series(kind):
    others = [Series(name, [1, 2, 3], [1.0, 2.0, 3.0], name) for name in ("line", "faint", "points") if name != kind]
    element = chart(Series("one", [1, 2, 3], [3.0, 1.0, 2.0], kind), *others, at_points=True)
    marks = [mark for mark in element.iter("circle") if mark.attrib["class"] == f"mark {kind}"]
    assert len(marks) == 3 + 1  # and one in the legend
    assert sum(mark.find("title") is not None for mark in marks) == 3


def test_a_logarithmic_axis_is_named():
    named = lambda element: [text.text for text in element.iter("text") if text.attrib["class"] == "label"]
    wide = Series("loss", [1, 4, 100], [1.0, 10.0, 100.0])
    assert named(chart(wide, y_label="nats")) == ["step", "nats, log scale"]
    assert named(chart(wide, at_points=True)) == ["step, log scale", "log scale"]
    assert named(chart(Series("loss", [1, 2], [1.0, 2.0]), y_label="nats")) == ["step", "nats"]


def test_charts_that_cover_the_same_values_have_one_scale():
    low, high = (Series("a", [0, 1], values) for values in ([0.0, 10.0], [40.0, 60.0]))
    ticks = [labels(chart(one, log=False, covers=(0.0, 60.0)))[:4] for one in (low, high)]
    assert ticks[0] == ticks[1] == ["0", "20", "40", "60"]


def test_heat_maps_of_one_scale_have_its_shades():
    element = ElementTree.fromstring(heat_map([[0.0, 5.0]], title="t", row_label="r", column_label="c", scale=(0, 10)))
    cells = [cell for cell in element.iter("rect") if cell.find("title") is not None]
    assert [float(cell.attrib["fill-opacity"]) for cell in cells] == [0.08, 0.54]
    assert {"0", "10"} <= {text.text for text in element.iter("text")}
