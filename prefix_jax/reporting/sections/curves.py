"""The plots of a report: training curves, and heat maps of a prefix."""

import math
import statistics
from collections.abc import Sequence

from prefix_jax.reporting.figures import PAGE, Figure, card, heat, lines
from prefix_jax.reporting.run import Picture, Run
from prefix_jax.reporting.sections.values import finite
from prefix_jax.reporting.svg.heat import limits
from prefix_jax.reporting.svg.markup import Markup, join, tag
from prefix_jax.reporting.svg.plots import Series, smoothed
from prefix_jax.workdir import METRICS

_KINDS = ("key", "value")


def training(run: Run) -> Markup:
    """Curves of loss, learning rate, throughput and gradient norm."""
    if not run.metrics:
        return tag("p", f"No metrics yet: {METRICS} is written as the run goes.", class_="empty")
    return tag("div", [card(figure) for figure in training_figures(run)], class_="charts")


def training_figures(run: Run) -> list[Figure]:
    """Returns the curves that the run has logged."""
    figures = _loss(run)
    rate, speed, norm = (run.curve(name) for name in ("learning_rate", "tokens_per_second", "gradient_norm"))
    if rate[0]:
        peak = f"Highest {max(finite(rate[1]), default=math.nan):.3g}."
        figures.append(_small("learning_rate", "Learning rate", peak, [Series("learning rate", *rate)], True))
    if speed[0]:
        known = finite(speed[1])
        told = f"Median {statistics.median(known):,.0f} target tokens a second." if known else ""
        figures.append(_small("throughput", "Throughput", told, [Series("tokens per second", *speed)], True))
    if norm[0]:
        both = [Series("each", *norm, kind="faint"), Series("smoothed", norm[0], smoothed(norm[1]))]
        figures.append(_small("gradient_norm", "Gradient norm", "Of what is trained, before clipping.", both))
    return figures


def prefix(run: Run) -> Markup | None:
    """Heat maps of the sizes of the prefix's keys and values, by layer and head."""
    if not run.pictures:
        return None
    unit = "relative to the model's own keys and values" if run.pictures[0].relative else "in the model's units"
    about = f"Mean norm over the prefix's slots, {unit}: the stronger the colour, the larger. "
    about += "All maps of keys have one scale, and all maps of values another."
    cards = [card(figure) for figure in prefix_figures(run)]
    return join([tag("p", about, class_="about"), tag("div", cards, class_="charts two")])


def prefix_figures(run: Run) -> list[Figure]:
    """Returns a map for the keys and one for the values of each site."""
    scales = {kind: limits([getattr(picture, kind).tolist() for picture in run.pictures]) for kind in _KINDS}
    return [_norms(picture, kind, scales[kind]) for picture in run.pictures for kind in _KINDS]


def _loss(run: Run) -> list[Figure]:
    loss, validation = run.curve("loss"), run.curve("validation_loss")
    drawn = []
    if loss[0]:
        drawn += [Series("training", *loss, kind="faint"), Series("smoothed", loss[0], smoothed(loss[1]))]
    told = []
    if validation[0]:
        drawn.append(Series("validation", *validation, kind="points"))
        if known := [(y, x) for x, y in zip(*validation, strict=True) if math.isfinite(y)]:
            told.append(f"Lowest validation loss {min(known)[0]:.4g}, at step {min(known)[1]:,.0f}.")
    if lost := len(loss[1]) - len(finite(loss[1])):
        told.append(f"At {lost} logged step{'s' * (lost > 1)} the loss was not a finite number.")
    if not drawn:
        return []
    unit = "nats per target token"
    return [lines("loss", "Loss", drawn, told=" ".join(told), y_label=unit, width=PAGE, height=330, whole=True)]


def _small(name: str, title: str, told: str, series: Sequence[Series], from_zero: bool = False) -> Figure:
    return lines(name, title, series, told=told, from_zero=from_zero, width=330)


def _norms(picture: Picture, kind: str, scale: tuple[float, float]) -> Figure:
    values = getattr(picture, kind).tolist()
    heads_by_layers = [list(row) for row in zip(*values, strict=True)]
    return heat(
        f"{picture.site}_{kind}s", f"{picture.site.capitalize()} {kind}s", heads_by_layers, row_label="head",
        column_label="layer", column_names=picture.layers, scale=scale,
    )  # fmt: skip
