"""The scores of a report: a table for each split, and findings against the run."""

from collections.abc import Mapping
from typing import Any

from prefix_jax.reporting.run import Run
from prefix_jax.reporting.sections.values import count, main_scores, numbers
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.page import scrolling
from prefix_jax.reporting.tables import About, decimals_of, is_better, metric_text, signed
from prefix_jax.verdict import of_metrics


def findings(run: Run) -> list[str]:
    """Returns what speaks against the run, a sentence each: as `evaluate` found it, else of its losses alone."""
    scored = main_scores(run)[1].get("verdict")
    if not isinstance(scored, list):
        scored = of_metrics(run.metrics, bool(run.option("training.patience", 0)))
    return [str(finding["detail"]) for finding in scored if isinstance(finding, Mapping) and "detail" in finding]


def scores(run: Run) -> Markup | None:
    """One table a split: every metric, bare and tuned; then one for each plain text."""
    failed = bool(findings(run))
    parts = [
        _score_table(split, scored, failed) for split, scored in run.scores.items() if numbers(scored.get("tuned"))
    ]
    texts: dict[tuple[str, str], Mapping[str, Any]] = {}
    for scored in run.scores.values():
        found = scored.get("forgetting")
        if isinstance(found, Mapping) and "change" in numbers(found):
            texts[str(found.get("file")), str(found.get("checksum"))] = found
    parts += [_forgetting_table(found, failed) for found in texts.values()]
    return tag("div", parts, class_="stack") if parts else None


def _score_table(split: str, scored: Mapping[str, Any], failed: bool) -> Markup:
    after, before = numbers(scored.get("tuned")), numbers(scored.get("bare"))
    rows = []
    reasons = scored.get("not_measured")
    reasons, about = reasons if isinstance(reasons, Mapping) else {}, about_metrics(scored)
    for name in dict.fromkeys([*after, *before, *reasons]):
        bare, value = before.get(name), after.get(name)
        change = difference(name, value - bare, failed, about) if bare is not None and value is not None else "-"
        shown = [metric_text(name, one, about) for one in (bare, value)]
        cells = [*shown, change] if before else shown[1:]
        rows.append(tag("tr", tag("th", name, scope="row"), [tag("td", cell, class_="number") for cell in cells]))
    columns = ["bare model", "tuned", "difference"] if before else ["tuned"]
    heads = [tag("th", "metric", scope="col"), *(tag("th", column, scope="col", class_="number") for column in columns)]
    records = f"{count(scored.get('records'))} records" if scored.get("records") else ""
    caption = "; ".join(part for part in (f"Split {split}", records, _decoded(scored)) if part)
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", rows))
    absent = [tag("p", f"No {name}: {reason}.", class_="about below") for name, reason in reasons.items()]
    return tag("div", scrolling(table, caption), absent, class_="card")


def _forgetting_table(found: Mapping[str, Any], failed: bool) -> Markup:
    """A plain text with and without what was tuned: lower is better in every row."""
    known, rows = numbers(found), []
    for name, unit in (("loss", "loss, nats per token"), ("perplexity", "perplexity"), ("bits_per_byte", "bits/byte")):
        bare, value = known.get(f"{name}_bare"), known.get(f"{name}_tuned")
        about = {name: {"decimals": 3, "higher_is_better": False}}
        change = difference(name, value - bare, failed, about) if bare is not None and value is not None else "-"
        cells = [metric_text(name, bare, about), metric_text(name, value, about), change]
        rows.append(tag("tr", tag("th", unit, scope="row"), [tag("td", cell, class_="number") for cell in cells]))
    columns = ("bare model", "tuned", "forgetting")
    heads = [tag("th", "plain text", scope="col"), *(tag("th", one, scope="col", class_="number") for one in columns)]
    caption = f"Plain text {found.get('file')}, {count(found.get('tokens'))} tokens predicted"
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", rows))
    return tag("div", scrolling(table, caption), class_="card")


def about_metrics(scored: Mapping[str, Any]) -> About:
    """Returns the rows of metrics that are not a built-in task's."""
    found = scored.get("metrics")
    return found if isinstance(found, Mapping) else {}


def difference(metric: str, difference: float, failed: bool, about: About) -> Markup:
    """A signed difference in the colour of better or worse; nothing is better where the run looks failed."""
    better = is_better(metric, difference, about)
    kind = None if better is None or (better and failed) else "better" if better else "worse"
    return tag("span", signed(difference, decimals_of(metric, about)).replace("-", "\u2212"), class_=kind)


def _decoded(scored: Mapping[str, Any]) -> str:
    if isinstance(scored.get("choices"), Mapping):
        return "answered by likelihood"
    decoding = scored.get("decoding")
    if not isinstance(decoding, Mapping) or "strategy" not in decoding:
        return ""
    strategy = str(decoding["strategy"])
    names = {"beam": ("beams", "length_penalty", "max_length"), "sample": ("temperature", "top_k", "top_p")}
    told = [f"{name.replace('_', ' ')} {decoding[name]}" for name in names.get(strategy, ()) if name in decoding]
    return ", ".join([f"decoded by {strategy}", *told])
