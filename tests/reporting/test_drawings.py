"""Attention maps, rows of dots, and plots as files of their own: the numbers where they belong, inside the frame."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from prefix_jax.reporting.svg.attention_map import attention_map
from prefix_jax.reporting.svg.dots import Dots, Spread, dot_rows, spread_rows
from prefix_jax.reporting.svg.plots import Series, line_chart
from prefix_jax.reporting.svg.standalone import standalone

WEIGHTS = [[0.64, 0.36, 0.0], [0.04, 0.0, 0.96]]
SPACE = "{http://www.w3.org/2000/svg}"


def test_an_attention_map_shades_by_weight_and_frames_the_prefix():
    element = ElementTree.fromstring(
        attention_map(WEIGHTS, 1, ["a", "<b>"], ["slot 0", "a", "<b>"], title="Layer 0", width=400)
    )
    cells = [cell for cell in element.iter("rect") if cell.attrib["class"] == "cell"]
    assert [float(cell.attrib["fill-opacity"]) for cell in cells] == [0.8, 0.6, 0.2, pytest.approx(0.98)]
    assert cells[0].find("title").text == "a to slot 0: 64.0 %"
    columns, rows = ({float(cell.attrib[name]) for cell in cells} for name in ("x", "y"))
    assert len(columns) == 3 and len(rows) == 2
    (frame,) = [rect for rect in element.iter("rect") if rect.attrib["class"] == "mark faint"]
    end = float(frame.attrib["x"]) + float(frame.attrib["width"])
    assert sorted(columns)[0] < end <= sorted(columns)[1]
    assert element.attrib["aria-label"].startswith("Layer 0. 2 tokens look at 1 slots, with 34 % of their attention")
    width, height = map(float, element.attrib["viewBox"].split()[2:])
    for cell in cells:
        assert float(cell.attrib["x"]) + float(cell.attrib["width"]) <= width
        assert float(cell.attrib["y"]) + float(cell.attrib["height"]) <= height


def test_a_map_without_a_prefix_has_no_frame():
    text = attention_map([[1.0]], 0, ["a"], ["a"], title="t")
    assert "prefix" not in text and "mark faint" not in text


def test_rows_of_dots_lie_on_a_logarithmic_axis():
    rows = [Dots("one", 1e3), Dots("two", 1e5, 1e6, "3 %"), Dots("three", 1e7)]
    element = ElementTree.fromstring(dot_rows(rows, title="t", x_label="numbers", full="stored", ring="trained"))
    full = [float(c.attrib["cx"]) for c in element.iter("circle") if c.attrib["class"] == "cell"][:3]
    (ring,) = [float(c.attrib["cx"]) for c in element.iter("circle") if c.attrib["class"] == "mark points"][:1]
    assert full[1] - full[0] == pytest.approx(full[2] - full[1], abs=0.2)
    assert ring == pytest.approx((full[1] + full[2]) / 2, abs=0.2)
    labels = [text.text for text in element.iter("text")]
    assert {"one", "two", "three", "3 %", "stored", "trained", "numbers, log scale", "100k", "10M"} <= set(labels)


def test_means_lie_at_their_values_with_their_deviations_around_them():
    rows = [Spread("a", 2.0, 1.0), Spread("b", 4.0), Spread("none", math.nan)]
    element = ElementTree.fromstring(spread_rows(rows, title="t", x_label="BLEU"))
    a, b = element.iter("circle")
    (bar,) = element.iter("path")  # of "a": a single value has none
    low, high = (float(point.split(",")[0]) for point in bar.attrib["d"][1:].split("M")[0].split("L"))
    assert float(a.attrib["cx"]) == pytest.approx((low + high) / 2, abs=0.1)
    assert high - low == pytest.approx(float(b.attrib["cx"]) - float(a.attrib["cx"]), abs=0.2)
    assert element.attrib["aria-label"] == "t. a: 2. b: 4."
    assert "Nothing to draw" in spread_rows([Spread("a", math.nan)], title="t", x_label="x")


def test_a_plot_is_a_file_of_its_own():
    chart = line_chart([Series("loss", [0, 1], [1.0, 2.0])], title="Loss")
    text = standalone(chart)
    element = ElementTree.fromstring(text)
    assert element.tag == f"{SPACE}svg" and element.attrib["viewBox"] == "-12 -12 354 226"
    assert "var(" not in text and "prefers-color-scheme: dark" in text
    assert len(element.findall(f".//{SPACE}path")) == 1
    named = ElementTree.fromstring(standalone(chart, "Loss. Prefix tuning of flan-t5-small on lighthouse by length."))
    captions = [line for line in named.iter(f"{SPACE}text") if line.attrib["class"] == "caption"]
    assert " ".join(line.text for line in captions).startswith("Loss. Prefix tuning of flan-t5-small on lighthouse")
    assert len(captions) == 2 and named.attrib["viewBox"] == "-12 -46 354 260"
    with pytest.raises(ValueError, match="not a plot"):
        standalone(line_chart([], title="nothing"))
