"""`report.html`: a single self-contained page with what a run tuned, how it trained and its scores."""

from collections.abc import Callable
from pathlib import Path

import prefix_jax.workdir as files
from prefix_jax.reporting.figures import Figure
from prefix_jax.reporting.inside import inside, inside_figures
from prefix_jax.reporting.run import Run, read_run
from prefix_jax.reporting.sections import confusion, curves, options, overview, samples, scores
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.page import document, section

title = overview.title

SECTIONS: tuple[tuple[str, str, Callable[[Run], Markup | None]], ...] = (
    ("tuned", "What was tuned", overview.tuned),
    ("training", "Training", curves.training),
    ("scores", "Scores", scores.scores),
    ("confusion", "Confusion matrix", confusion.confusion),
    ("samples", "Samples", samples.samples),
    ("prefix", "The prefix", curves.prefix),
    ("inside", "Looking inside", inside),
    ("options", "Options", options.options),
    ("reproduce", "How to reproduce", options.reproduce),
)


def write_report(workdir: Path | str) -> Path:
    """Writes `report.html` into a run directory atomically, and returns its path.

    Raises:
        UserError: the directory is not a run directory, or the page cannot be written.
    """
    run = read_run(workdir)
    return files.write_report(run.workdir, page(run))


def figures_of(run: Run) -> list[Figure]:
    """Returns the figures of the page, in its order."""
    parts = (curves.training_figures, confusion.confusion_figures, curves.prefix_figures, inside_figures)
    return [figure for part in parts for figure in part(run)]


def page(run: Run) -> str:
    """Returns the page as text."""
    built = [(anchor, title, body) for anchor, title, write in SECTIONS if (body := write(run)) is not None]
    notes = tag("aside", [tag("p", note) for note in run.notes], class_="notes") if run.notes else None
    parts = [notes, *(section(*one) for one in built)]
    return document(overview.title(run), overview.opening(run), parts, [(anchor, title) for anchor, title, _ in built])
