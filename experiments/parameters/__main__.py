"""`python -m experiments.parameters`: how many numbers each method trains and stores, on models of every family.

Counted from shapes alone; nothing is loaded. Writes the table of `README.md` between its markers, and two plots:
`by_method.svg` and `by_length.svg`.
"""

from pathlib import Path

from prefix_jax.disk import write_text
from prefix_jax.inspection.counting import parameters_by_length, parameters_by_method
from prefix_jax.planning.shapes import spec_of
from prefix_jax.reporting.parameters import lengths_figure, methods_figure
from prefix_jax.reporting.svg.standalone import standalone
from prefix_jax.reporting.tables import markdown_table, write_between_markers

FOLDER = Path(__file__).parent
MODELS = ("gpt2", "gpt2-medium", "flan-t5-small", "bart-large", "llama-2-7b")
DRAWN = "gpt2-medium"


def rows() -> list[list[object]]:
    return [
        [model, name, f"{found.trained:,}", f"{found.stored:,}", f"{100 * found.share:.3g} %"]
        for model in MODELS
        for name, found in parameters_by_method(spec_of(model)).items()
    ]


def main() -> None:
    table = markdown_table(rows(), ["model", "method", "trained", "stored", "stored, of the model"])
    write_between_markers(FOLDER / "README.md", table)
    drawn = spec_of(DRAWN)
    by_method = methods_figure(parameters_by_method(drawn), DRAWN)
    by_length = lengths_figure(parameters_by_length(drawn), DRAWN)
    for name, figure in (("by_method", by_method), ("by_length", by_length)):
        assert figure.chart is not None
        write_text(FOLDER / f"{name}.svg", standalone(figure.chart, figure.title))


if __name__ == "__main__":
    main()
