"""`python -m experiments.stability`: see `recipe.py` and `README.md`."""

from pathlib import Path

from experiments.results import Result
from experiments.studies import Figure, Study, main

KINDS = {"mlp": "through an MLP", "none": "direct"}


def labels(result: Result) -> dict[str, str | float]:
    kind = KINDS[result.option("prefix.reparameterisation")]
    return {"prefix": kind, "learning rate": result.option("optimizer.learning_rate")}


STUDY = Study(
    folder=Path(__file__).parent,
    labels=labels,
    scored={"paper": (), "cpu": ("--limit=64", "--spread")},
    figures=(Figure("BLEU", "learning rate", lines="prefix"),),
)

if __name__ == "__main__":
    main(STUDY)
