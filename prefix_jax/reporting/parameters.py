"""Plots of the parameter counts of methods (see `inspection.counting`)."""

from collections.abc import Mapping, Sequence

from prefix_jax.reporting.svg.dots import Dots, dot_rows
from prefix_jax.reporting.svg.markup import Markup
from prefix_jax.reporting.svg.plots import Series, line_chart


def methods_chart(found: Mapping[str, Sequence[int]], model: str) -> Markup:
    """Returns a dot plot of `(trained, stored, base)` by method, on a logarithmic axis, with the share of the model."""
    drawn = [
        Dots(name, stored, None if trained == stored else trained, f"{100 * stored / base:.3g} %")
        for name, (trained, stored, base) in found.items()
    ]
    return dot_rows(
        sorted(drawn, key=lambda row: row.full), title=f"Parameters by method, {model}", x_label="numbers",
        full="stored", ring="trained, where not the same", note=f"stored, of {model}",
    )  # fmt: skip


def lengths_chart(found: Mapping[str, Sequence[int]], model: str) -> Markup:
    """Returns line plots of all entries against "length", both axes logarithmic."""
    names = [name for name in found if name != "length"]
    kinds = ("line", "points", "faint")
    lines = [Series(n, list(found["length"]), list(found[n]), k) for n, k in zip(names, kinds)]
    return line_chart(
        lines, title=f"Parameters by length, {model}", x_label="virtual tokens", y_label="numbers", width=700,
        height=300, log=True, at_points=True,
    )  # fmt: skip
