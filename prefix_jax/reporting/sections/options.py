"""The end of a report: the configuration, and how to reproduce the run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prefix_jax.config import default_config
from prefix_jax.options import flat
from prefix_jax.reporting.run import Run
from prefix_jax.reporting.sections.values import main_scores, quoted_workdir
from prefix_jax.reporting.svg.markup import Markup, join, tag

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
    workdir, commit, command = quoted_workdir(run), run.record.get("commit"), run.record.get("command")
    # A "+" marks a source tree with changes that no commit holds.
    lines = [f"git checkout {str(commit).rstrip('+')}"] if commit else []
    lines.append(str(command) if command else f"python -m prefix_jax.train --workdir {workdir}")
    lines += [f"python -m prefix_jax.evaluate --workdir {workdir} --split {main_scores(run)[0] or 'test'}"]
    lines += [f"python -m prefix_jax.reporting --workdir {workdir}"]
    rows: list[tuple[str, object]] = [("started", run.record.get("started")), ("commit", commit or "unknown")]
    rows += [("platform", run.record.get("platform"))]
    rows += [("training seed", run.option("training.seed")), ("data seed", run.option("data.seed"))]
    versions = run.record.get("versions")
    rows += sorted(versions.items()) if isinstance(versions, Mapping) else []
    table = _option_table("Environment", ("name", "value"), [row for row in rows if row[1] is not None])
    inputs = _option_table("Inputs, by what they hold", ("input", "hash"), list(_inputs(run)))
    commands = tag("pre", tag("code", "\n".join(lines)), tabindex="0", aria_label="Commands")
    return tag("div", commands, inputs, table, class_="stack")


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
    return tag("div", tag("div", table, class_="scroll"), class_="card")
