"""`python -m experiments.prefix_length`: see `recipe.py` and `README.md`."""

from pathlib import Path

from experiments.results import Result
from experiments.studies import Figure, Study, main


def labels(result: Result) -> dict[str, int]:
    return {"prefix length": result.option("prefix.length")}


STUDY = Study(
    folder=Path(__file__).parent,
    labels=labels,
    scored={"paper": (), "cpu": ("--limit=96", "--spread")},
    figures=tuple(Figure(metric, "prefix length") for metric in ("BLEU", "TER", "rouge2", "rougeL")),
)

if __name__ == "__main__":
    main(STUDY)
