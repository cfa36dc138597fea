"""`python -m experiments.classification`: see `recipe.py` and `README.md`."""

from pathlib import Path

from experiments import naming
from experiments.results import Result
from experiments.studies import Study, main


def labels(result: Result) -> dict[str, str | float]:
    return {"method": naming.method(result), "learning rate": result.option("optimizer.learning_rate")}


METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "mcc")
STUDY = Study(folder=Path(__file__).parent, labels=labels, scored={"cpu": ("--limit=400", "--spread")}, metrics=METRICS)

if __name__ == "__main__":
    main(STUDY)
