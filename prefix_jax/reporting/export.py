"""Figures as files for other programs: SVG, CSV, and PDF where matplotlib is installed."""

import sys
from collections.abc import Sequence
from pathlib import Path

from prefix_jax import extras
from prefix_jax.disk import replacing, write_text
from prefix_jax.errors import UserError
from prefix_jax.reporting.figures import Figure
from prefix_jax.reporting.svg.markup import printable
from prefix_jax.reporting.svg.standalone import standalone


def write_figures(folder: Path, figures: Sequence[Figure], about: str) -> list[Path]:
    """Writes each figure into a folder, which is created, and returns the paths.

    Args:
      about: model and data, which captions name.

    Raises:
      UserError: there is nothing to draw, or the folder cannot be written.
    """
    drawn = [figure for figure in figures if figure.chart is not None and "<svg" in figure.chart]
    if not drawn:
        raise UserError("there are no figures yet: train, evaluate or inspect first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created ({error.strerror or error})") from None
    paths = [path for figure in drawn for path in _texts(folder, figure, f"{figure.title}. {about}.")]
    if not extras.is_installed("matplotlib"):
        print("no PDF files: they need the package matplotlib; pip install 'prefix_jax[figures]'", file=sys.stderr)
        return paths
    for figure in drawn:
        if figure.drawn is not None:
            paths.append(folder / f"{figure.stem}.pdf")
            write_pdf(figure, paths[-1], f"{figure.title}. {about}.")
    return paths


def write_pdf(figure: Figure, path: Path, caption: str) -> None:
    """Writes a figure as a PDF for a paper.

    Raises:
      UserError: matplotlib is not installed, or the file cannot be written.
    """
    extras.require("matplotlib", "a PDF file")
    if figure.drawn is None:
        raise UserError(f"{figure.title} has no form as PDF; save it as .svg")
    from prefix_jax.reporting import paper

    with replacing(path) as file:
        paper.write_pdf(figure, file, printable(caption))


def _texts(folder: Path, figure: Figure, caption: str) -> list[Path]:
    assert figure.chart is not None
    texts = {"svg": standalone(figure.chart, caption), "csv": figure.csv()}
    for kind, text in texts.items():
        write_text(folder / f"{figure.stem}.{kind}", text)
    return [folder / f"{figure.stem}.{kind}" for kind in texts]
