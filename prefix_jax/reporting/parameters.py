"""Figures of the parameter counts of methods (see `inspection.counting`)."""

from collections.abc import Mapping, Sequence

from prefix_jax.reporting.figures import Figure, lines
from prefix_jax.reporting.svg.dots import Dots, dot_rows
from prefix_jax.reporting.svg.markup import Markup
from prefix_jax.reporting.svg.plots import Series


def methods_figure(found: Mapping[str, Sequence[int]], model: str) -> Figure:
    """Returns `methods_chart` with its numbers."""
    rows = [[name, *counts] for name, counts in found.items()]
    title = f"What each method trains and stores, {model}"
    columns = ("method", "trained", "stored", "base")
    return Figure("parameters_by_method", title, methods_chart(found, model), columns, rows, scrolls=True)


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


def lengths_figure(found: Mapping[str, Sequence[int]], model: str) -> Figure:
    """Returns lines of all entries against "length", both axes logarithmic."""
    names = [name for name in found if name != "length"]
    kinds = ("line", "points", "faint")
    series = [Series(n, list(found["length"]), list(found[n]), k) for n, k in zip(names, kinds)]
    return lines(
        "parameters_by_length", f"Parameters against the number of virtual tokens, {model}", series,
        x_label="virtual tokens", y_label="numbers", width=700, height=300, log=True, at_points=True,
    )  # fmt: skip
