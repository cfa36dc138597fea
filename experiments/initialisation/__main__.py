"""`python -m experiments.initialisation`: see `recipe.py` and `README.md`."""

from pathlib import Path

from experiments.results import Result
from experiments.studies import Figure, Study, main


def labels(result: Result) -> dict[str, str]:
    return {"initial words": result.option("prefix.text") or "random"}


STUDY = Study(
    folder=Path(__file__).parent,
    labels=labels,
    scored={"paper": (), "cpu": ("--limit=32", "--spread")},
    figures=(Figure("BLEU", "initial words"),),
)

if __name__ == "__main__":
    main(STUDY)
