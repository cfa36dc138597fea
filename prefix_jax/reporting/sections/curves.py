"""The plots of a report: training curves, and heat maps of a prefix."""

import math
import statistics
from collections.abc import Sequence

from prefix_jax.reporting.run import Picture, Run
from prefix_jax.reporting.sections.values import finite
from prefix_jax.reporting.svg.markup import Markup, join, tag
from prefix_jax.reporting.svg.plots import Series, heat_map, line_chart, smoothed
from prefix_jax.workdir import METRICS


def training(run: Run) -> Markup:
    """Curves of loss, learning rate, throughput and gradient norm."""
    if not run.metrics:
        return tag("p", f"No metrics yet: {METRICS} is written as the run goes.", class_="empty")
    figures = [_loss_figure(run)]
    rate, speed, norm = (run.curve(name) for name in ("learning_rate", "tokens_per_second", "gradient_norm"))
    if rate[0]:
        peak = f"Highest {max(finite(rate[1]), default=math.nan):.3g}."
        figures.append(_figure("Learning rate", peak, [Series("learning rate", *rate)], from_zero=True))
    if speed[0]:
        known = finite(speed[1])
        told = f"Median {statistics.median(known):,.0f} target tokens a second." if known else ""
        figures.append(_figure("Throughput", told, [Series("tokens per second", *speed)], from_zero=True))
    if norm[0]:
        lines = [Series("each", *norm, kind="faint"), Series("smoothed", norm[0], smoothed(norm[1]))]
        figures.append(_figure("Gradient norm", "Of what is trained, before clipping.", lines))
    return tag("div", [figure for figure in figures if figure is not None], class_="charts")


def prefix(run: Run) -> Markup | None:
    """Heat maps of the sizes of the prefix's keys and values, by layer and head."""
    if not run.pictures:
        return None
    unit = "relative to the model's own keys and values" if run.pictures[0].relative else "in the model's units"
    about = f"Mean norm over the prefix's slots, {unit}: the stronger the colour, the larger."
    figures = [_heat_figure(picture, kind) for picture in run.pictures for kind in ("key", "value")]
    return join([tag("p", about, class_="about"), tag("div", figures, class_="charts two")])


def _loss_figure(run: Run) -> Markup | None:
    loss, validation = run.curve("loss"), run.curve("validation_loss")
    lines = []
    if loss[0]:
        lines += [Series("training", *loss, kind="faint"), Series("smoothed", loss[0], smoothed(loss[1]))]
    told = []
    if validation[0]:
        lines.append(Series("validation", *validation, kind="points"))
        if known := [(y, x) for x, y in zip(*validation, strict=True) if math.isfinite(y)]:
            told.append(f"Lowest validation loss {min(known)[0]:.4g}, at step {min(known)[1]:,.0f}.")
    if lost := len(loss[1]) - len(finite(loss[1])):
        told.append(f"At {lost} logged step{'s' * (lost > 1)} the loss was not a finite number.")
    return _figure("Loss", " ".join(told), lines, y_label="nats per target token", whole=True) if lines else None


def _figure(
    name: str, told: str, lines: Sequence[Series], y_label: str = "", whole: bool = False, from_zero: bool = False
) -> Markup:
    caption = tag("figcaption", tag("h3", name), tag("p", told) if told else None)
    narrow = line_chart(lines, title=name, y_label="", from_zero=from_zero)
    if not whole:
        return tag("figure", caption, narrow, class_="card")
    wide = line_chart(lines, title=name, y_label=y_label, width=980, height=330, from_zero=from_zero)
    drawn = [tag("div", wide, class_="wide"), tag("div", narrow, class_="narrow")]
    return tag("figure", caption, drawn, class_="card whole")


def _heat_figure(picture: Picture, kind: str) -> Markup:
    name = f"{picture.site.capitalize()} {kind}s"
    values = getattr(picture, kind).tolist()
    heads_by_layers = [list(row) for row in zip(*values, strict=True)]
    chart = heat_map(heads_by_layers, title=name, row_label="head", column_label="layer", column_names=picture.layers)
    return tag("figure", tag("figcaption", tag("h3", name)), chart, class_="card")
