"""A plot as a file of its own, or for a notebook: with its styles, which follow the reader's light or dark setting."""

import re

from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.theme import CHART, DARK, LIGHT

MARGIN = 12


def standalone(chart: Markup) -> str:
    """Returns one of the plots as an SVG that any program shows."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)
    if box is None:
        raise ValueError("this is not a plot")
    width, height = float(box[1]) + 2 * MARGIN, float(box[2]) + 2 * MARGIN
    ground = {"x": -MARGIN, "y": -MARGIN, "width": f"{width:g}", "height": f"{height:g}", "rx": 6}
    style = f"{_coloured(LIGHT)}\n@media (prefers-color-scheme: dark) {{\n{_coloured(DARK)}}}"
    # The plot's own rules would stretch it to the width of a page.
    style += f"\n.chart {{ width: {width:g}px; max-width: 100%; }}"
    opened = chart.replace(box[0], f'viewBox="{-MARGIN} {-MARGIN} {width:g} {height:g}"', 1)
    opened = opened.replace("<svg", f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"', 1)
    start = opened.index(">") + 1
    inside = tag("style", Markup(style)) + tag("rect", class_="ground", **ground)
    return f"{opened[:start]}{inside}{opened[start:]}\n"


def _coloured(colours: str) -> str:
    """The rules with the colours in them: not every program knows custom properties."""
    rules = f"{CHART}.chart .ground {{ fill: var(--card); }}\n".replace("var(--sans)", "system-ui, sans-serif")
    for name, value in re.findall(r"(--\w+): ([^;]+);", colours):
        rules = rules.replace(f"var({name})", value)
    return rules
