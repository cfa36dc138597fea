"""The head of a report: title, summary, score cards, and facts about what was tuned."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefix_jax.reporting.run import Run
from prefix_jax.reporting.sections.scores import about_metrics, difference, findings
from prefix_jax.reporting.sections.values import (
    count,
    finite,
    main_scores,
    method_title,
    methods_of,
    model_name,
    numbers,
    parameter_counts,
    quoted_workdir,
    share,
)
from prefix_jax.reporting.svg.heat import bar_pair
from prefix_jax.reporting.svg.markup import Markup, join, tag
from prefix_jax.reporting.tables import largest_of, metric_text
from prefix_jax.tuning import Declaration


def title(run: Run) -> str:
    """Returns the page's title, such as "Prefix tuning of flan-t5-small on table"."""
    return "".join(_title_parts(run))


def opening(run: Run) -> Markup:
    """The title, a sentence on the size of what was tuned, and the cards of the first split's scores."""
    split, scored = main_scores(run)
    before, model, after = _title_parts(run)
    against = findings(run)
    cards = _cards(scored, bool(against)) if scored else None
    if not scored:
        command = tag("code", f"python -m prefix_jax.evaluate --workdir {quoted_workdir(run)} --split test")
        cards = tag("p", "Not scored yet: ", command, " scores the model with and without the prefix.", class_="empty")
    return join([
        tag("p", "prefix_jax: report of a run", class_="kicker"),
        tag("h1", before, tag("span", model, class_="nowrap" if len(model) < 20 else None), after),
        tag("p", _lede(run, split, scored), class_="lede"),
        tag("ul", [tag("li", item) for item in _meta(run)], class_="meta"),
        _failed(against),
        cards,
    ])  # fmt: skip


def tuned(run: Run) -> Markup:
    """Model, method, length, and how many parameters were trained, are stored and stayed frozen."""
    model = str(run.option("model.source", run.prefix.get("model", "unknown")))
    facts: list[tuple[str, str | None, str | None]] = [
        ("Model", model, _said(run, "model.dtype", "in {}")),
        ("Method", method_title(run.config), _notes(run)),
    ]
    facts += [fact for name, method in methods_of(run.config).items() for fact in _method_facts(run, name, method)]
    counts = parameter_counts(run)
    facts += [
        ("Trained", count(counts.get("trained")), "parameters that the optimizer moves"),
        ("Stored", count(counts.get("stored")), "parameters kept after training"),
        ("Model's own", count(counts.get("base")), _untouched(run)),
        ("Stored share of the model", share(counts), None),
        ("Data", _said(run, "data.task", "{}"), _records(run)),
    ]
    shown = [tag("div", tag("dt", name), tag("dd", value, tag("small", more) if more else None))
             for name, value, more in facts if value]  # fmt: skip
    return tag("div", tag("dl", shown, class_="facts"), class_="card")


def _title_parts(run: Run) -> tuple[str, str, str]:
    task = run.option("data.task")
    model = model_name(run.option("model.source", run.prefix.get("model", "a model")))
    return f"{method_title(run.config)} of ", model, f" on {task}" if task else ""


def _failed(against: Sequence[str]) -> Markup | None:
    if not against:
        return None
    items = [tag("li", sentence[0].upper() + sentence[1:] + ".") for sentence in against]
    return tag("div", tag("p", "This run looks failed"), tag("ul", items), class_="failed", role="alert")


def _lede(run: Run, split: str, scored: Mapping[str, Any]) -> Markup:
    counts = parameter_counts(run)
    said: list[object] = []
    if counts.get("stored") and counts.get("base"):
        said += [tag("b", f"{counts['stored']:,} parameters"), f", {share(counts)} of a frozen model of "]
        said += [f"{_large(counts['base'])}, steer it to the task. "]
    if scored:
        records = scored.get("records")
        measured = f"on {count(records)} {split} records" if records else f"on the {split} split"
        said += [f"Measured {measured}" + (", against the same model without them." if scored.get("bare") else ".")]
    return join(said or ["What was tuned, how training went, and what came of it."])


def _meta(run: Run) -> list[str]:
    items = []
    if run.metrics:
        items.append(f"{int(max(line['step'] for line in run.metrics)):,} steps")
    seconds = finite(run.curve("seconds")[1])
    if seconds:
        items.append(f"{_duration(max(seconds))} of training")
    if started := run.record.get("started"):
        items.append("started " + str(started)[:16].replace("T", " "))
    if commit := run.record.get("commit"):
        items.append(f"commit {str(commit)[:10]}")
    return [*items, f"run {run.workdir.resolve().name}"]


def _cards(scored: Mapping[str, Any], failed: bool) -> Markup:
    after, before = numbers(scored.get("tuned")), numbers(scored.get("bare"))
    cards, about = [], about_metrics(scored)
    for name, value in list(after.items())[:6]:
        bare = before.get(name)
        than = None
        if bare is not None:
            before_it = f"bare model {metric_text(name, bare, about)} "
            than = tag("p", before_it, difference(name, value - bare, failed, about), class_="than")
        text = metric_text(name, value, about)
        big = tag("p", text, class_="big" if len(text) < 9 else "big long")
        bars = bar_pair(bare, value, largest_of(name, about))
        cards.append(tag("article", tag("h3", name), big, bars, than, class_="card score"))
    return tag("div", cards, class_="scores")


def _method_facts(run: Run, name: str, method: Declaration | None) -> list[tuple[str, str | None, str | None]]:
    section = run.config.get(name if method is None else method.name)
    section = section if isinstance(section, Mapping) else {}
    if method is not None and method.facts is not None:
        return [(fact, count(value) or None, more) for fact, value, more in method.facts(section, run.prefix)]
    chosen = ", ".join(f"{option} {value}" for option, value in section.items() if value not in ("", None))
    return [(name if method is None else method.title, chosen, None)] if section else []


def _untouched(run: Run) -> str:
    tuned = any(found is not None and found.changes_base for found in methods_of(run.config).values())
    return "parameters, some or all tuned" if tuned else "parameters, none of them changed"


def _notes(run: Run) -> str | None:
    told = []
    for found in methods_of(run.config).values():
        section = run.config.get(found.name) if found is not None else None
        told += [found.note(section)] if found is not None and isinstance(section, Mapping) else []
    return "; ".join(note for note in told if note) or None


def _records(run: Run) -> str | None:
    limit, batch = run.option("data.limit", 0), run.option("training.batch")
    drawn = run.option("data.limit_seed", -1) >= 0
    told = [f"{count(limit)} records drawn at random" if drawn else f"first {count(limit)} records"] if limit else []
    return ", ".join(told + ([f"{batch} records a step"] if batch else [])) or None


def _said(run: Run, option: str, form: str) -> str | None:
    value = run.option(option)
    return None if value in (None, "") else form.format(value)


def _large(count: int) -> str:
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
