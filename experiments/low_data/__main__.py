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
    scored={"paper": (), "cpu": ("--limit=64", "--spread")},
    figures=tuple(Figure(metric, "records", lines="method") for metric in ("BLEU", "ROUGE_L", "rouge2", "rougeL")),
)

if __name__ == "__main__":
    main(STUDY)
