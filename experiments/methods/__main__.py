"""`python -m experiments.methods`: see `recipe.py` and `README.md`."""

from collections.abc import Mapping
from pathlib import Path

from experiments import naming
from experiments.results import Result
from experiments.studies import Study, main


def labels(result: Result) -> dict[str, str | float]:
    return {"method": naming.method(result), "learning rate": result.option("optimizer.learning_rate")}


def paper(result: Result) -> Mapping[str, float]:
    """Returns the main table's row, or for embeddings alone the ablation's."""
    return naming.ablation(result) if result.option("method") == "prompt" else naming.main_table(result)


STUDY = Study(folder=Path(__file__).parent, labels=labels, scored={"cpu": ("--limit=100",)}, paper=paper)

if __name__ == "__main__":
    main(STUDY)
