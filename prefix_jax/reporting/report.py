"""`report.html`: a single self-contained page with what a run tuned, how it trained and its scores."""

from collections.abc import Callable
from pathlib import Path

import prefix_jax.workdir as files
from prefix_jax.reporting import sections
from prefix_jax.reporting.inside import inside
from prefix_jax.reporting.markup import Markup, tag
from prefix_jax.reporting.page import document, section
from prefix_jax.reporting.run import Run, read_run

SECTIONS: tuple[tuple[str, str, Callable[[Run], Markup | None]], ...] = (
    ("tuned", "What was tuned", sections.tuned),
    ("training", "Training", sections.training),
    ("scores", "Scores", sections.scores),
    ("samples", "Samples", sections.samples),
    ("prefix", "The prefix", sections.prefix),
    ("inside", "Looking inside", inside),
    ("options", "Options", sections.options),
    ("reproduce", "How to reproduce", sections.reproduce),
)


def write_report(workdir: Path | str) -> Path:
    """Writes `report.html` into a run directory atomically, and returns its path.

    Raises:
        UserError: the directory is not a run directory, or the page cannot be written.
    """
    run = read_run(workdir)
    return files.write_report(run.workdir, page(run))


def page(run: Run) -> str:
    """Returns the page as text."""
    built = [(anchor, title, body) for anchor, title, write in SECTIONS if (body := write(run)) is not None]
    notes = tag("aside", [tag("p", note) for note in run.notes], class_="notes") if run.notes else None
    parts = [notes, *(section(*one) for one in built)]
    return document(sections.title(run), sections.opening(run), parts, [(anchor, title) for anchor, title, _ in built])
