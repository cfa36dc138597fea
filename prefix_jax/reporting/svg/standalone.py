"""A plot as a file of its own, or for a notebook: with a caption, and styles that follow a reader's light or dark."""

import re
import textwrap

from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.theme import CHART, DARK, LIGHT

MARGIN = 12
_LINE, _LETTER = 17, 7.6  # the height of a line of the caption, the width of a letter


def standalone(chart: Markup, caption: str = "") -> str:
    """Returns one of the plots as an SVG that any program shows, with a caption above it."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)
    if box is None:
        raise ValueError("this is not a plot")
    width, height = float(box[1]) + 2 * MARGIN, float(box[2]) + 2 * MARGIN
    lines = textwrap.wrap(caption, int(float(box[1]) / _LETTER)) if caption else []
    above = MARGIN + _LINE * len(lines)
    height += above - MARGIN
    ground = {"x": -MARGIN, "y": -above, "width": f"{width:g}", "height": f"{height:g}", "rx": 6}
    style = f"{_coloured(LIGHT)}\n@media (prefers-color-scheme: dark) {{\n{_coloured(DARK)}}}"
    opened = chart.replace(box[0], f'viewBox="{-MARGIN} {-above} {width:g} {height:g}"', 1)
    # Not the width of the page, as the rules say; and not a rule, which would be that of all plots of a notebook.
    size = f'width="{width:g}" height="{height:g}" style="width: {width:g}px; max-width: 100%; height: auto"'
    opened = opened.replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" {size}', 1)
    start = opened.index(">") + 1
    inside = tag("style", Markup(style)) + tag("rect", class_="ground", **ground)
    told = [tag("text", line, class_="caption", x=0, y=18 - above + _LINE * i) for i, line in enumerate(lines)]
    return f"{opened[:start]}{inside}{''.join(told)}{opened[start:]}\n"


def _coloured(colours: str) -> str:
    """The rules with the colours in them: not every program knows custom properties."""
    rules = f"{CHART}.chart .ground {{ fill: var(--card); }}\n".replace("var(--sans)", "system-ui, sans-serif")
    for name, value in re.findall(r"(--\w+): ([^;]+);", colours):
        rules = rules.replace(f"var({name})", value)
    return rules
