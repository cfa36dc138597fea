"""The end of a report: the configuration, and how to reproduce the run."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prefix_jax.config import default_config
from prefix_jax.options import flat, option
from prefix_jax.reporting.run import Run
from prefix_jax.reporting.sections.values import main_scores, quoted_workdir
from prefix_jax.reporting.svg.markup import Markup, join, tag
from prefix_jax.reporting.svg.page import scrolling

# Of the fields of a model's identity.
_HASHES = {
    "sha256": "the wheel (SHA-256)",
    "revision": "commit on the hub",
    "numbers": "type and hash of all its weights",
    "weights": "fingerprint",
}


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
    rows: list[tuple[str, object]] = [("started", run.record.get("started"))]
    rows += [("commit", run.record.get("commit") or "unknown"), ("platform", run.record.get("platform"))]
    rows += [("training seed", run.option("training.seed")), ("data seed", run.option("data.seed"))]
    versions = run.record.get("versions")
    rows += sorted(versions.items()) if isinstance(versions, Mapping) else []
    table = _option_table("Environment", ("name", "value"), [row for row in rows if row[1] is not None])
    commands = tag("pre", tag("code", "\n".join(command_lines(run))), tabindex="0", aria_label="Commands")
    parts: list[Markup] = [commands]
    if words := without_recipe(run):
        about = "The same training without its recipe: every option that is not at its default."
        parts.append(tag("p", about, class_="about below"))
        parts.append(tag("pre", tag("code", shlex.join(words)), tabindex="0", aria_label="Command without a recipe"))
    inputs = _option_table("Inputs, by what they hold", ("input", "hash"), list(_inputs(run)))
    return tag("div", *parts, inputs, table, class_="stack")


def command_lines(run: Run) -> list[str]:
    """Returns the commands that led to the run directory as it is, in order."""
    workdir, commit, command = quoted_workdir(run), str(run.record.get("commit") or ""), run.record.get("command")
    lines = [f"git checkout {commit.rstrip('+')}"] if commit else []
    # A "+" marks a source tree with changes that no commit holds.
    lines += ["# its files had changes that this commit does not hold"] if commit.endswith("+") else []
    if run.record.get("given"):
        lines.append("# an optimizer or a loss was given in Python, which no option names")
    lines.append(str(command) if command else f"python -m prefix_jax.train --workdir {workdir}")
    scored = [entry.get("command") for entry in run.scores.values()]
    lines += [str(command) for command in scored if command]
    if not any(scored):
        lines.append(f"python -m prefix_jax.evaluate --workdir {workdir} --split {main_scores(run)[0] or 'test'}")
    lines += _inspected(run)
    return [*lines, f"python -m prefix_jax.reporting --workdir {workdir}"]


def without_recipe(run: Run) -> list[str]:
    """Returns the words of a command that trains with the run's options without its recipe, into another directory;
    none where model or task are not recorded.
    """
    default, chosen = flat(default_config().to_dict()), flat(run.config)
    if not (chosen.get("model.source") and chosen.get("data.task")):
        return []
    words = ["python", "-m", "prefix_jax.train", "--model", str(chosen["model.source"])]
    words += ["--task", str(chosen["data.task"]), "--workdir", f"{run.workdir}-again"]
    named = ("model.source", "data.task")
    changed = [
        name for name, value in chosen.items() if name in default and default[name] != value and name not in named
    ]
    return [*words, *(option(f"config.{name}", chosen[name]) for name in changed)]


def _inspected(run: Run) -> list[str]:
    if not run.inspection:
        return []
    split, records = run.inspection.get("split", "validation"), run.inspection.get("records", 32)
    command = f"python -m prefix_jax.inspect --workdir {quoted_workdir(run)} --split {split} --limit {records}"
    return [str(run.inspection.get("command") or command)]


def _inputs(run: Run) -> Iterator[tuple[str, object]]:
    """Yields what a number was made of and its hash: model, tokenizer, data files, what was tuned."""
    model = run.record.get("model")
    if isinstance(model, Mapping):
        for name in ("sha256", "revision", "numbers", "weights"):
            if model.get(name):
                yield f"model, {_HASHES[name]}", model[name]
    yield "tokenizer, its files", run.record.get("tokenizer") or "unknown"
    found = run.record.get("inputs")
    splits = {split: files for split, files in (found.items() if isinstance(found, Mapping) else ())}
    for split, entry in run.scores.items():
        splits.setdefault(split, entry.get("inputs"))
    for split, files in splits.items():
        for name, sha256 in files.items() if isinstance(files, Mapping) else ():
            yield f"{split}, {name} (SHA-256)", sha256
    yield "what was tuned (SHA-256)", run.prefix.get("sha256") or "unknown"
    for split, entry in run.scores.items():
        if entry.get("prefix"):
            yield f"what was scored on {split} (SHA-256)", entry["prefix"]


def _option_table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], coloured: Sequence[str] = ()
) -> Markup:
    body = []
    for name, *values in rows:
        cells = [tag("td", "(empty)" if value == "" else str(value)) for value in values]
        body.append(tag("tr", tag("th", str(name), scope="row"), cells, class_="set" if name in coloured else None))
    heads = [tag("th", column, scope="col") for column in columns]
    table = tag("table", tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", body), class_="options")
    return tag("div", scrolling(table, caption), class_="card")
