"""`python -m experiments.low_data`: see `recipe.py` and `README.md`."""

from pathlib import Path

from experiments import naming
from experiments.results import Result
from experiments.studies import Figure, Study, main


def labels(result: Result) -> dict[str, str | int]:
    return {"records": result.option("data.limit"), "method": naming.method(result)}


STUDY = Study(
    folder=Path(__file__).parent,
    labels=labels,
    scored={"paper": (), "cpu": ("--limit=32", "--spread")},
    figures=(Figure("BLEU", "records", lines="method"), Figure("ROUGE_L", "records", lines="method")),
)

if __name__ == "__main__":
    main(STUDY)
