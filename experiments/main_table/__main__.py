"""`python -m experiments.main_table`: see `recipe.py` and `README.md`."""

from pathlib import Path

from experiments import naming
from experiments.results import Result
from experiments.studies import Study, main


def labels(result: Result) -> dict[str, str]:
    return {"model": result.option("model.source"), "method": naming.method(result)}


STUDY = Study(
    folder=Path(__file__).parent,
    labels=labels,
    scored={"paper": (), "cpu": ("--limit=40", "--spread")},
    paper=naming.main_table,
)

if __name__ == "__main__":
    main(STUDY)
