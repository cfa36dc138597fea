"""`python -m experiments.extrapolation`: see `recipe.py` and `README.md`."""

from pathlib import Path

from experiments import naming
from experiments.studies import Study, main

STUDY = Study(
    folder=Path(__file__).parent,
    labels=naming.labels,
    scored={"paper": (), "cpu": ("--limit=120", "--spread")},
    paper=naming.main_table,
)

if __name__ == "__main__":
    main(STUDY)
