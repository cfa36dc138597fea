"""Inspection section of `report.html`."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefix_jax.reporting.figures import Figure, attention, card, heat, lines
from prefix_jax.reporting.parameters import lengths_figure, methods_figure
from prefix_jax.reporting.run import Run
from prefix_jax.reporting.svg.heat import limits
from prefix_jax.reporting.svg.markup import Markup, join, tag
from prefix_jax.reporting.svg.page import scrolling
from prefix_jax.reporting.svg.plots import Series, spans


def inside(run: Run) -> Markup | None:
    """Returns attention to the prefix, changes of next-token predictions, and distances from another prefix."""
    found = run.inspection
    change, other = found.get("change"), found.get("changed_words")
    if not isinstance(change, float) or not isinstance(other, float):
        return None
    told = (
        f"Measured on {found.get('tokens', 0):,} target tokens of {found.get('records', 0):,} "
        f"{found.get('split')} records. What was tuned moves the next token's distribution by {change:.2f} nats on "
        f"average and changes its likeliest word in {100 * other:.0f}\u00a0% of places."
    )
    figures = measured_figures(run)
    charts = tag("div", [card(figure) for figure in figures], class_="charts two")
    parts = [tag("p", told, class_="about"), charts if figures else None]
    more = [*_matrices(run), _next_words(found), _nearest(found.get("nearest_words")), *_parameters(run)]
    return join([*parts, *more])


def inside_figures(run: Run) -> list[Figure]:
    """Returns all figures of the section."""
    return [*measured_figures(run), *attention_figures(run), *parameter_figures(run)]


def measured_figures(run: Run) -> list[Figure]:
    """Returns what was measured over records, and distances from another prefix."""
    found = run.inspection
    return [*_shares(_mapping(found.get("prefix_share"))), *_by_place(found), *_distances(found)]


def attention_figures(run: Run) -> list[Figure]:
    """Returns the attention of one record at each site."""
    figures = []
    for site, one in _mapping(run.inspection.get("attention")).items():
        if not _fits(one):
            continue
        share = f"{100 * one['share']:.0f}\u00a0% to the prefix"
        title = f"{site.capitalize()}, layer {one['layer']}, head {one['head']}: {share}"
        words = one["queries"], one["keys"]
        figures.append(attention(f"attention_{site}", title, one["weights"], one["slots"], *words))
    return figures


def parameter_figures(run: Run) -> list[Figure]:
    """Returns the parameters of each method on the run's model."""
    counts = _mapping(run.inspection.get("parameters"))
    if not counts:
        return []
    model = _model(run)
    methods, lengths = _mapping(counts.get("by_method")), _mapping(counts.get("by_length"))
    figures = [methods_figure(methods, model)] if methods else []
    if len(lengths) > 1 and "length" in lengths and len({len(values) for values in lengths.values()}) == 1:
        figures.append(lengths_figure(lengths, model))
    return figures


def _shares(shares: Mapping[str, Any]) -> list[Figure]:
    """Layers across and heads down, as in the maps of the prefix; all sites on one scale from 0."""
    in_percent = {
        site: [[100 * value for value in row] for row in zip(*share, strict=True)]
        for site, share in shares.items()
        if share and share[0]
    }
    most = limits(list(in_percent.values()))[1]
    return [
        heat(
            f"attention_to_the_prefix_{site}", f"Attention to the prefix, {site}, %", values, row_label="head",
            column_label="layer", scale=(0.0, most),
        )
        for site, values in in_percent.items()
    ]  # fmt: skip


def _by_place(found: Mapping[str, Any]) -> list[Figure]:
    changes = found.get("change_by_place")
    if not isinstance(changes, list) or not changes:
        return []
    series = [Series("change", list(range(1, len(changes) + 1)), changes, "points")]
    title = "Change of the next token's distribution"
    return [lines("change_by_place", title, series, from_zero=True, x_label="target token", y_label="nats")]


def _distances(found: Mapping[str, Any]) -> list[Figure]:
    """A figure for each measure and site; those of a measure on one scale."""
    figures = []
    for measure, name in (("cosine", "Cosine"), ("relative", "Relative distance")):
        drawn = {}
        for site, kinds in _mapping(found.get("distance")).items():
            layers = list(range(len(kinds["key"][measure])))
            keys = Series("keys", layers, kinds["key"][measure], "line")
            drawn[site] = [keys, Series("values", layers, kinds["value"][measure], "points")]
        covers = [end for series in drawn.values() for end in spans(series)]
        for site, series in drawn.items():
            title = f"{name} to the prefix of {found.get('against')}, {site}"
            options = {"x_label": "layer", "log": False, "at_points": True, "covers": covers}
            figures.append(lines(f"{measure}_{site}", title, series, **options))
    return figures


def _matrices(run: Run) -> list[Markup]:
    figures, found = attention_figures(run), run.inspection
    if not figures:
        return []
    text = f"“{found.get('source')}” with the target “{found.get('target')}”"
    about = f"The attention of {text}, of the head that gives the prefix the most: the stronger the colour, the more."
    return [tag("p", about, class_="about more"), tag("div", [card(one) for one in figures], class_="stack")]


def _fits(head: Mapping[str, Any]) -> bool:
    """Returns whether a head's weights are those of its queries and keys, the first of which are slots."""
    columns, rows = len(head["keys"]), len(head["queries"])
    shaped = len(head["weights"]) == rows > 0 and all(len(row) == columns for row in head["weights"])
    return shaped and head["slots"] <= columns and all(0 <= weight <= 2 for row in head["weights"] for weight in row)


def _next_words(found: Mapping[str, Any]) -> Markup | None:
    places = found.get("next_words")
    if not isinstance(places, list) or not places:
        return None
    rows = [
        tag("tr", tag("th", repr(place["token"]), scope="row"), tag("td", f"{place['change']:.2f}", class_="number"),
            tag("td", _odds(place["bare"])), tag("td", _odds(place["tuned"])))
        for place in places
    ]  # fmt: skip
    heads = [tag("th", text, scope="col", class_="number" if text == "nats" else None)
             for text in ("token", "nats", "the bare model expects", "with what was tuned")]  # fmt: skip
    caption = tag("caption", "The same record, token by token: how far the distribution moves, and the likeliest words")
    table = tag("table", caption, tag("thead", tag("tr", heads)), tag("tbody", rows))
    summary = tag("summary", f"The next word at each of {len(places)} tokens")
    return tag("details", summary, tag("div", scrolling(table, "The next words"), class_="card"), class_="more")


def _odds(words: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{word!r} {100 * share:.0f} %" for word, share in words)


def _nearest(words: object) -> Markup | None:
    if not isinstance(words, list) or not words:
        return None
    lines = [tag("li", ", ".join(map(str, row))) for row in words]
    return join([tag("p", "The nearest words of each virtual token:", class_="about more"), tag("ol", lines)])


def _parameters(run: Run) -> list[Markup]:
    figures = parameter_figures(run)
    if not figures:
        return []
    about = f"Counted on {_model(run)}, from its shapes; adapters have the width at which they are that share of it."
    return [tag("p", about, class_="about more"), tag("div", [card(one) for one in figures], class_="stack")]


def _model(run: Run) -> str:
    return str(run.option("model.source")).rpartition("/")[2]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
