"""Figures as files for other programs: SVG, CSV, and PDF where matplotlib is installed."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from prefix_jax.disk import write_text
from prefix_jax.errors import UserError
from prefix_jax.reporting.figures import Figure
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
    if importlib.util.find_spec("matplotlib") is None:
        print("no PDF files: they need matplotlib (pip install 'prefix_jax[figures]')", file=sys.stderr)
        return paths
    from prefix_jax.reporting.paper import write_pdf

    pdf = [(figure, folder / f"{figure.name}.pdf") for figure in drawn]
    return paths + [path for figure, path in pdf if write_pdf(figure, path, f"{figure.title}. {about}.")]


def _texts(folder: Path, figure: Figure, caption: str) -> list[Path]:
    assert figure.chart is not None
    texts = {"svg": standalone(figure.chart, caption), "csv": figure.csv()}
    for kind, text in texts.items():
        write_text(folder / f"{figure.name}.{kind}", text)
    return [folder / f"{figure.name}.{kind}" for kind in texts]
