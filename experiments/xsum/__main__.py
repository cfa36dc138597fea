"""`python -m experiments.xsum`: see `recipe.py` and `README.md`."""

from collections.abc import Mapping
from pathlib import Path

from experiments import naming, published
from experiments.results import Result
from experiments.studies import Study, main


def paper(result: Result) -> Mapping[str, float]:
    share = "2%" if result.share > 0.01 else "0.1%"
    return published.scores(published.SUMMARIES, "xsum_test_R1_R2_RL", f"PREFIX({share})")


STUDY = Study(
    folder=Path(__file__).parent,
    labels=naming.labels,
    scored={"paper": (), "cpu": ("--limit=60", "--spread")},
    paper=paper,
)

if __name__ == "__main__":
    main(STUDY)
