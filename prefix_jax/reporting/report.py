"""`report.html`: one page, one file, nothing fetched, that shows what a run tuned, how it went and what it gained."""

from collections.abc import Callable
from pathlib import Path

from prefix_jax.disk import write_text
from prefix_jax.reporting import sections
from prefix_jax.reporting.markup import Markup, tag
from prefix_jax.reporting.run import Run, read_run
from prefix_jax.reporting.theme import STYLE

# Even where a browser is told to by the page's own text, it must not fetch or run anything.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

SECTIONS: tuple[tuple[str, str, Callable[[Run], Markup | None]], ...] = (
    ("tuned", "What was tuned", sections.tuned),
    ("training", "Training", sections.training),
    ("scores", "Scores", sections.scores),
    ("samples", "Samples", sections.samples),
    ("prefix", "The prefix", sections.prefix),
    ("options", "Options", sections.options),
    ("reproduce", "How to reproduce", sections.reproduce),
)


def write_report(workdir: Path | str) -> Path:
    """Writes `report.html` into a run directory, replacing an older one atomically, and returns its path.

    Raises:
        UserError: the directory holds no run, or the page cannot be written.
    """
    run = read_run(workdir)
    path = run.workdir / "report.html"
    write_text(path, page(run))
    return path


def page(run: Run) -> str:
    """Returns the page as text."""
    built = [(anchor, title, body) for anchor, title, write in SECTIONS if (body := write(run)) is not None]
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in built]
    notes = tag("aside", [tag("p", note) for note in run.notes], class_="notes") if run.notes else None
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", sections.title(run)),
        tag("style", Markup(STYLE)),
    )
    body = tag(
        "body",
        tag("a", "To the content", href="#content", class_="skip"),
        tag("header", sections.opening(run), tag("nav", tag("ul", links), aria_label="Sections"), class_="top"),
        tag("main", notes, [_section(*one) for one in built], id="content"),
        sections.closing(run),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _section(anchor: str, title: str, body: Markup) -> Markup:
    heading = f"{anchor}-title"
    return tag("section", tag("h2", title, id=heading), body, id=anchor, aria_labelledby=heading)
