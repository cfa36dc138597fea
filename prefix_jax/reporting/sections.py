"""The sections of `report.html`: each a pure function of a run, `None` where the run has nothing for it."""

import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefix_jax.config import default_config, flat
from prefix_jax.reporting.markup import Markup, join, tag
from prefix_jax.reporting.plots import Series, bar_pair, heat_map, line_chart, smoothed
from prefix_jax.reporting.run import Picture, Run
from prefix_jax.reporting.tables import About, decimals_of, is_better, metric_text, signed
from prefix_jax.verdict import of_metrics

METHODS = {"prefix": "Prefix tuning", "prompt": "Prompt tuning", "infix": "Infix tuning", "lora": "LoRA",
           "adapter": "Adapter tuning", "finetune": "Fine-tuning"}  # fmt: skip
SHOWN_SAMPLES, ALL_SAMPLES = 6, 30


def title(run: Run) -> str:
    """Returns the page's title, such as "Prefix tuning of flan-t5-small on table"."""
    return "".join(_title_parts(run))


def opening(run: Run) -> Markup:
    """The title, a sentence on the size of what was tuned, and the cards of the first split's scores."""
    split, scored = _main_scores(run)
    before, model, after = _title_parts(run)
    against = findings(run)
    cards = _cards(scored, bool(against)) if scored else None
    if not scored:
        command = tag("code", f"python -m prefix_jax.evaluate --workdir {_workdir(run)} --split test")
        cards = tag("p", "Not scored yet: ", command, " scores the model with and without the prefix.", class_="empty")
    return join([
        tag("p", "prefix_jax: report of a run", class_="kicker"),
        tag("h1", before, tag("span", model, class_="nowrap" if len(model) < 20 else None), after),
        tag("p", _lede(run, split, scored), class_="lede"),
        tag("ul", [tag("li", item) for item in _meta(run)], class_="meta"),
        _failed(against),
        cards,
    ])  # fmt: skip


def findings(run: Run) -> list[str]:
    """Returns what speaks against the run, a sentence each: as `evaluate` found it, else of its losses alone."""
    scored = _main_scores(run)[1].get("verdict")
    if not isinstance(scored, list):
        scored = of_metrics(run.metrics, bool(run.option("training.patience", 0)))
    return [str(finding["detail"]) for finding in scored if isinstance(finding, Mapping) and "detail" in finding]


def _failed(against: Sequence[str]) -> Markup | None:
    if not against:
        return None
    items = [tag("li", sentence[0].upper() + sentence[1:] + ".") for sentence in against]
    return tag("div", tag("p", "This run looks failed"), tag("ul", items), class_="failed", role="alert")


def tuned(run: Run) -> Markup:
    """Model, method, length, and how many parameters were trained, are stored and stayed frozen."""
    methods = _methods(run)
    model = str(run.option("model.source", run.prefix.get("model", "unknown")))
    facts: list[tuple[str, str | None, str | None]] = [
        ("Model", model, _said(run, "model.dtype", "in {}")),
        ("Method", _method_title(run), _reparameterisation(run) if "prefix" in methods else None),
    ]
    for method in methods:
        section = run.config.get(method)
        if method != "prefix" and isinstance(section, Mapping):
            chosen = ", ".join(f"{name} {value}" for name, value in section.items() if value not in ("", None))
            facts.append((METHODS.get(method, method), chosen, None))
    if "prefix" in methods:
        length = run.prefix.get("length", run.option("prefix.length"))
        sites = run.prefix.get("sites", run.option("prefix.sites"))
        sites = ", ".join(map(str, sites)) if isinstance(sites, (list, tuple)) else sites
        facts.append(("Prefix length", _count(length), f"at {sites} attention" if sites else None))
        facts.append(("Initialisation", _said(run, "prefix.initialisation", "{}"), None))
    counts = _counts(run)
    facts += [
        ("Trained", _count(counts.get("trained")), "parameters that the optimizer moves"),
        ("Stored", _count(counts.get("stored")), "parameters kept after training"),
        ("Model's own", _count(counts.get("base")), _untouched(methods)),
        ("Stored share of the model", _share(counts), None),
        ("Data", _said(run, "data.task", "{}"), _records(run)),
    ]
    shown = [tag("div", tag("dt", name), tag("dd", value, tag("small", more) if more else None))
             for name, value, more in facts if value]  # fmt: skip
    return tag("div", tag("dl", shown, class_="facts"), class_="card")


def training(run: Run) -> Markup:
    """Curves of loss, learning rate, throughput and gradient norm."""
    if not run.metrics:
        return tag("p", "No metrics yet: metrics.jsonl is written as the run goes.", class_="empty")
    figures = [_loss_figure(run)]
    rate, speed, norm = (run.curve(name) for name in ("learning_rate", "tokens_per_second", "gradient_norm"))
    if rate[0]:
        peak = f"Highest {max(_finite(rate[1]), default=math.nan):.3g}."
        figures.append(_figure("Learning rate", peak, [Series("learning rate", *rate)], from_zero=True))
    if speed[0]:
        known = _finite(speed[1])
        told = f"Median {statistics.median(known):,.0f} target tokens a second." if known else ""
        figures.append(_figure("Throughput", told, [Series("tokens per second", *speed)], from_zero=True))
    if norm[0]:
        lines = [Series("each", *norm, kind="faint"), Series("smoothed", norm[0], smoothed(norm[1]))]
        figures.append(_figure("Gradient norm", "Of what is trained, before clipping.", lines))
    return tag("div", [figure for figure in figures if figure is not None], class_="charts")


def scores(run: Run) -> Markup | None:
    """One table a split: every metric, bare and tuned."""
    failed = bool(findings(run))
    parts = [
        _score_table(split, scored, failed) for split, scored in run.scores.items() if _numbers(scored.get("tuned"))
    ]
    return tag("div", parts, class_="stack") if parts else None


def samples(run: Run) -> Markup | None:
    """Inputs, references and what both models wrote."""
    if not run.samples:
        return None
    first, rest = run.samples[:SHOWN_SAMPLES], run.samples[SHOWN_SAMPLES:ALL_SAMPLES]
    more = None
    if rest:
        inside = tag("div", [_sample(one) for one in rest], class_="stack")
        more = tag("details", tag("summary", f"{len(rest)} more"), inside, class_="more")
    about = "The same inputs through the frozen model alone and with what was tuned, as decoded for the scores."
    return join([tag("p", about, class_="about"), tag("div", [_sample(one) for one in first], class_="stack"), more])


def prefix(run: Run) -> Markup | None:
    """Heat maps of the sizes of the prefix's keys and values, by layer and head."""
    if not run.pictures:
        return None
    unit = "relative to the model's own keys and values" if run.pictures[0].relative else "in the model's units"
    about = f"Mean norm over the prefix's slots, {unit}: the stronger the colour, the larger."
    figures = [_heat_figure(picture, kind) for picture in run.pictures for kind in ("key", "value")]
    return join([tag("p", about, class_="about"), tag("div", figures, class_="charts two")])


def options(run: Run) -> Markup | None:
    """The configuration: what the run sets itself, and everything."""
    chosen = flat(run.config)
    if not chosen:
        return None
    default = flat(default_config().to_dict())
    changed = [name for name, value in chosen.items() if default.get(name) != value]
    said = "Every option is at its default."
    if changed:
        said = f"{len(changed)} of {len(chosen)} options differ from the defaults."
    parts: list[Markup] = [tag("p", said, class_="about")]
    if changed:
        rows = [(name, chosen[name], default.get(name, "(none)")) for name in changed]
        parts.append(_option_table("What this run sets", ("option", "this run", "default"), rows))
    every = [(name, value) for name, value in chosen.items()]
    caption = "All options; coloured where they differ from the defaults"
    table = _option_table(caption, ("option", "value"), every, changed)
    parts.append(tag("details", tag("summary", f"All {len(chosen)} options"), table, class_="more"))
    return join(parts)


def reproduce(run: Run) -> Markup:
    """The commands, and the environment the run saw."""
    workdir, commit, command = _workdir(run), run.record.get("commit"), run.record.get("command")
    # A "+" marks a source tree with changes that no commit holds.
    lines = [f"git checkout {str(commit).rstrip('+')}"] if commit else []
    lines.append(str(command) if command else f"python -m prefix_jax.train --workdir {workdir}")
    lines += [f"python -m prefix_jax.evaluate --workdir {workdir} --split {_main_scores(run)[0] or 'test'}"]
    lines += [f"python -m prefix_jax.reporting --workdir {workdir}"]
    rows: list[tuple[str, object]] = [("started", run.record.get("started")), ("commit", commit or "unknown")]
    rows += [("platform", run.record.get("platform"))]
    rows += [("training seed", run.option("training.seed")), ("data seed", run.option("data.seed"))]
    versions = run.record.get("versions")
    rows += sorted(versions.items()) if isinstance(versions, Mapping) else []
    table = _option_table("Environment", ("name", "value"), [row for row in rows if row[1] is not None])
    commands = tag("pre", tag("code", "\n".join(lines)), tabindex="0", aria_label="Commands")
    return tag("div", commands, table, class_="stack")


def _title_parts(run: Run) -> tuple[str, str, str]:
    task = run.option("data.task")
    source = str(run.option("model.source", run.prefix.get("model", "a model"))).rstrip("/")
    is_path = source.startswith(("/", ".", "~")) or source.count("/") > 1
    model = source.rsplit("/", 1)[-1] if is_path else source
    return f"{_method_title(run)} of ", model, f" on {task}" if task else ""


def _lede(run: Run, split: str, scored: Mapping[str, Any]) -> Markup:
    counts = _counts(run)
    said: list[object] = []
    if counts.get("stored") and counts.get("base"):
        said += [tag("b", f"{counts['stored']:,} parameters"), f", {_share(counts)} of a frozen model of "]
        said += [f"{_large(counts['base'])}, steer it to the task. "]
    if scored:
        records = scored.get("records")
        measured = f"on {_count(records)} {split} records" if records else f"on the {split} split"
        said += [f"Measured {measured}" + (", against the same model without them." if scored.get("bare") else ".")]
    return join(said or ["What was tuned, how training went, and what came of it."])


def _meta(run: Run) -> list[str]:
    items = []
    if run.metrics:
        items.append(f"{int(max(line['step'] for line in run.metrics)):,} steps")
    seconds = _finite(run.curve("seconds")[1])
    if seconds:
        items.append(f"{_duration(max(seconds))} of training")
    if started := run.record.get("started"):
        items.append("started " + str(started)[:16].replace("T", " "))
    if commit := run.record.get("commit"):
        items.append(f"commit {str(commit)[:10]}")
    return [*items, f"run {run.workdir.resolve().name}"]


def _cards(scored: Mapping[str, Any], failed: bool) -> Markup:
    after, before = _numbers(scored.get("tuned")), _numbers(scored.get("bare"))
    cards, about = [], _about(scored)
    for name, value in list(after.items())[:6]:
        bare = before.get(name)
        than = None
        if bare is not None:
            than = tag(
                "p",
                f"bare model {metric_text(name, bare, about)} ",
                _difference(name, value - bare, failed, about),
                class_="than",
            )
        big = tag("p", metric_text(name, value, about), class_="big")
        cards.append(tag("article", tag("h3", name), big, bar_pair(bare, value), than, class_="card score"))
    return tag("div", cards, class_="scores")


def _about(scored: Mapping[str, Any]) -> About:
    """Returns the rows of metrics that are not a built-in task's."""
    found = scored.get("metrics")
    return found if isinstance(found, Mapping) else {}


def _difference(metric: str, difference: float, failed: bool, about: About) -> Markup:
    """A signed difference in the colour of better or worse; nothing is better where the run looks failed."""
    better = is_better(metric, difference, about)
    kind = None if better is None or (better and failed) else "better" if better else "worse"
    return tag("span", signed(difference, decimals_of(metric, about)).replace("-", "\u2212"), class_=kind)


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
    if lost := len(loss[1]) - len(_finite(loss[1])):
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


def _score_table(split: str, scored: Mapping[str, Any], failed: bool) -> Markup:
    after, before = _numbers(scored.get("tuned")), _numbers(scored.get("bare"))
    rows = []
    reasons = scored.get("not_measured")
    reasons, about = reasons if isinstance(reasons, Mapping) else {}, _about(scored)
    for name in dict.fromkeys([*after, *before, *reasons]):
        bare, value = before.get(name), after.get(name)
        change = _difference(name, value - bare, failed, about) if bare is not None and value is not None else "-"
        shown = [metric_text(name, one, about) for one in (bare, value)]
        cells = [*shown, change] if before else shown[1:]
        rows.append(tag("tr", tag("th", name, scope="row"), [tag("td", cell, class_="number") for cell in cells]))
    columns = ["bare model", "tuned", "difference"] if before else ["tuned"]
    heads = [tag("th", "metric", scope="col"), *(tag("th", column, scope="col", class_="number") for column in columns)]
    records = f"{_count(scored.get('records'))} records" if scored.get("records") else ""
    caption = "; ".join(part for part in (f"Split {split}", records, _decoded(scored)) if part)
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", rows))
    absent = [tag("p", f"No {name}: {reason}.", class_="about below") for name, reason in reasons.items()]
    return tag("div", tag("div", table, class_="scroll"), absent, class_="card")


def _decoded(scored: Mapping[str, Any]) -> str:
    decoding = scored.get("decoding")
    if not isinstance(decoding, Mapping) or "strategy" not in decoding:
        return ""
    strategy = str(decoding["strategy"])
    names = {"beam": ("beams", "length_penalty", "max_length"), "sample": ("temperature", "top_k", "top_p")}
    told = [f"{name.replace('_', ' ')} {decoding[name]}" for name in names.get(strategy, ()) if name in decoding]
    return ", ".join([f"decoded by {strategy}", *told])


def _sample(sample: Mapping[str, Any]) -> Markup:
    references = sample.get("references")
    references = [str(one) for one in references] if isinstance(references, list) else []
    parts: list[object] = [tag("p", "Input", class_="eyebrow"), _source(str(sample.get("source", "")))]
    if references:
        rest = references[1:]
        others = tag("details", tag("summary", f"{len(rest)} more reference{'s' * (len(rest) > 1)}"),
                     [tag("p", one, dir="auto") for one in rest]) if rest else None  # fmt: skip
        first = tag("p", references[0], dir="auto")
        parts.append(tag("div", tag("p", "Reference", class_="eyebrow"), first, others, class_="reference"))
    bare = sample.get("bare")
    texts = [_text("Bare model", bare, "bare")] if bare is not None else []
    texts.append(_text("Tuned", sample.get("tuned"), "tuned"))
    both = tag("div", texts, class_="texts" if bare is not None else "texts alone")
    return tag("article", tag("div", parts, class_="input"), both, class_="card sample")


def _text(name: str, text: object, kind: str) -> Markup:
    written = str(text).strip() if text is not None else ""
    body = tag("p", written, dir="auto") if written else tag("p", "(nothing)", class_="empty")
    return tag("div", tag("p", name, class_="eyebrow"), body, class_=f"text {kind}")


def _source(source: str) -> Markup:
    """Shows `name : The Eagle | food : Japanese` as pairs, any other input as it is."""
    pairs = [part.split(" : ", 1) for part in source.strip().split(" | ")]
    if all(len(pair) == 2 and all(half.strip() for half in pair) for pair in pairs):
        inside = [tag("div", tag("dt", name.strip()), tag("dd", value.strip())) for name, value in pairs]
        return tag("dl", inside, class_="pairs", dir="auto")
    return tag("p", source, dir="auto")


def _option_table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], coloured: Sequence[str] = ()
) -> Markup:
    body = []
    for name, *values in rows:
        cells = [tag("td", "(empty)" if value == "" else str(value)) for value in values]
        body.append(tag("tr", tag("th", str(name), scope="row"), cells, class_="set" if name in coloured else None))
    heads = [tag("th", column, scope="col") for column in columns]
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", body), class_="options")
    return tag("div", tag("div", table, class_="scroll"), class_="card")


def _main_scores(run: Run) -> tuple[str, Mapping[str, Any]]:
    """The split whose scores open the page: test where it was scored, else the first."""
    scored = {split: values for split, values in run.scores.items() if _numbers(values.get("tuned"))}
    split = "test" if "test" in scored else next(iter(scored), "")
    return split, scored.get(split, {})


def _numbers(values: object) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    known = {str(k): v for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {name: float(value) for name, value in known.items()}


def _counts(run: Run) -> dict[str, int]:
    return {name: int(value) for name, value in _numbers(run.record.get("parameters")).items() if math.isfinite(value)}


def _share(counts: Mapping[str, int]) -> str | None:
    if not counts.get("base") or "stored" not in counts:
        return None
    return f"{100 * counts['stored'] / counts['base']:.2g} %"


def _methods(run: Run) -> list[str]:
    return [name.strip() for name in str(run.config.get("method", "prefix")).split("+")]


def _method_title(run: Run) -> str:
    """Returns such as "Prefix tuning and LoRA"."""
    return " and ".join(METHODS.get(name, name) for name in _methods(run))


def _untouched(methods: Sequence[str]) -> str:
    return "parameters, some or all tuned" if "finetune" in methods else "parameters, none of them changed"


def _reparameterisation(run: Run) -> str | None:
    kind = run.option("prefix.reparameterisation")
    if kind == "mlp":
        return f"through an MLP of width {run.option('prefix.hidden', '?')}, dropped on export"
    return "keys and values themselves" if kind == "none" else None


def _records(run: Run) -> str | None:
    limit, batch = run.option("data.limit", 0), run.option("training.batch")
    drawn = run.option("data.limit_seed", -1) >= 0
    told = [f"{_count(limit)} records drawn at random" if drawn else f"first {_count(limit)} records"] if limit else []
    return ", ".join(told + ([f"{batch} records a step"] if batch else [])) or None


def _said(run: Run, option: str, form: str) -> str | None:
    value = run.option(option)
    return None if value in (None, "") else form.format(value)


def _workdir(run: Run) -> str:
    return shlex.quote(str(run.workdir))


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _count(value: object) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None if value is None else str(value)


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
