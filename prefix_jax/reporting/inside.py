"""Inspection section of `report.html`."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefix_jax.reporting.parameters import lengths_chart, methods_chart
from prefix_jax.reporting.run import Run
from prefix_jax.reporting.svg.attention_map import attention_map
from prefix_jax.reporting.svg.markup import Markup, join, tag
from prefix_jax.reporting.svg.plots import Series, heat_map, line_chart


def inside(run: Run) -> Markup | None:
    """Returns attention to the prefix, changes of next-token predictions, and distances from another prefix."""
    found = run.inspection
    change, other = found.get("change"), found.get("changed_words")
    if not isinstance(change, float) or not isinstance(other, float):
        return None
    told = (
        f"Measured on {found.get('tokens', 0):,} target tokens of {found.get('records', 0):,} "
        f"{found.get('split')} records. What was tuned moves the next token's distribution by {change:.2f} nats on "
        f"average and changes its likeliest word in {100 * other:.0f} % of places."
    )
    figures = [*_shares(_mapping(found.get("prefix_share"))), *_by_place(found), *_distances(found)]
    charts = tag("div", [tag("figure", one, class_="card") for one in figures], class_="charts two")
    parts = [tag("p", told, class_="about"), charts if figures else None]
    more = [*_matrices(found), _next_words(found), _nearest(found.get("nearest_words")), *_parameters(run)]
    return join([*parts, *more])


def _shares(shares: Mapping[str, Any]) -> list[Markup]:
    return [
        _titled(
            f"Attention to the prefix, {site}, %",
            heat_map(
                [[100 * value for value in row] for row in share], title=f"Attention to the prefix, {site}, %",
                row_label="layer", column_label="head",
            ),
        )
        for site, share in shares.items()
        if share and share[0]
    ]  # fmt: skip


def _by_place(found: Mapping[str, Any]) -> list[Markup]:
    changes = found.get("change_by_place")
    if not isinstance(changes, list) or not changes:
        return []
    name = "Change of the next token's distribution"
    lines = [Series("change", list(range(1, len(changes) + 1)), changes, "points")]
    return [
        _titled(name, line_chart(lines, title=name, x_label="target token", y_label="nats", from_zero=True, width=440))
    ]


def _distances(found: Mapping[str, Any]) -> list[Markup]:
    figures = []
    for measure, name in (("cosine", "Cosine"), ("relative", "Relative distance")):
        for site, kinds in _mapping(found.get("distance")).items():
            layers = range(len(kinds["key"][measure]))
            lines = [
                Series("keys", list(layers), kinds["key"][measure], "line"),
                Series("values", list(layers), kinds["value"][measure], "points"),
            ]
            title = f"{name} to the prefix of {found.get('against')}, {site}"
            figures.append(_titled(title, line_chart(lines, title=title, x_label="layer", log=False, width=440)))
    return figures


def _matrices(found: Mapping[str, Any]) -> list[Markup]:
    matrices = {site: one for site, one in _mapping(found.get("attention")).items() if _fits(one)}
    if not matrices:
        return []
    text = f"“{found.get('source')}” with the target “{found.get('target')}”"
    about = f"The attention of {text}, of the head that gives the prefix the most: the darker, the more."
    drawn = []
    for site, one in matrices.items():
        name = (
            f"{site.capitalize()}, layer {one['layer']}, head {one['head']}: {100 * one['share']:.0f} % to the prefix"
        )
        chart = attention_map(one["weights"], one["slots"], one["queries"], one["keys"], title=name)
        drawn.append(tag("figure", _caption(name), tag("div", chart, class_="scroll"), class_="card"))
    return [tag("p", about, class_="about more"), tag("div", drawn, class_="stack")]


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
    return tag("details", summary, tag("div", tag("div", table, class_="scroll"), class_="card"), class_="more")


def _odds(words: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{word!r} {100 * share:.0f} %" for word, share in words)


def _nearest(words: object) -> Markup | None:
    if not isinstance(words, list) or not words:
        return None
    lines = [tag("li", ", ".join(map(str, row))) for row in words]
    return join([tag("p", "The nearest words of each virtual token:", class_="about more"), tag("ol", lines)])


def _parameters(run: Run) -> list[Markup]:
    counts = _mapping(run.inspection.get("parameters"))
    if not counts:
        return []
    model = str(_mapping(_mapping(run.record.get("config")).get("model")).get("source")).rpartition("/")[2]
    methods, lengths = _mapping(counts.get("by_method")), _mapping(counts.get("by_length"))
    charts = [_titled("What each method trains and stores", methods_chart(methods, model))] if methods else []
    if len(lengths) > 1 and "length" in lengths and len({len(values) for values in lengths.values()}) == 1:
        charts.append(_titled("The same against the number of virtual tokens", lengths_chart(lengths, model)))
    drawn = [tag("figure", tag("div", one, class_="scroll"), class_="card") for one in charts]
    about = f"Counted on {model}, from its shapes; adapters have the width at which they are that share of it."
    return [tag("p", about, class_="about more"), tag("div", drawn, class_="stack")]


def _titled(name: str, chart: Markup) -> Markup:
    return join([_caption(name), chart])


def _caption(name: str) -> Markup:
    return tag("figcaption", tag("h3", name))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
