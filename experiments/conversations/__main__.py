"""`python -m experiments.conversations`: see `recipe.py` and `README.md`."""

from pathlib import Path

from experiments import naming
from experiments.results import Result
from experiments.studies import Study, main


def labels(result: Result) -> dict[str, str | float]:
    return {"method": naming.method(result), "learning rate": result.option("optimizer.learning_rate")}


METRICS = ("perplexity", "exact_match", "BLEU", "chrF")
STUDY = Study(folder=Path(__file__).parent, labels=labels, scored={"cpu": ("--limit=100", "--spread")}, metrics=METRICS)

if __name__ == "__main__":
    main(STUDY)
