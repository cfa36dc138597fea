"""`python -m experiments.news`: see `recipe.py` and `README.md`."""

from collections.abc import Mapping
from pathlib import Path

from experiments import naming, published
from experiments.results import Result
from experiments.studies import Study, main


def split(result: Result) -> str:
    return "news-to-sports" if result.option("data.test_categories") == "sport" else "within-news"


def labels(result: Result) -> dict[str, str]:
    return {"split": split(result), "method": naming.method(result)}


def paper(result: Result) -> Mapping[str, float]:
    name = "PREFIX" if result.option("method") == "prefix" else "FINE-TUNE"
    return published.scores(published.SUMMARIES, "xsum_extrapolation_R1_R2_RL", split(result), name)


STUDY = Study(
    folder=Path(__file__).parent,
    labels=labels,
    scored={"paper": (), "cpu": ("--limit=60", "--spread")},
    paper=paper,
)

if __name__ == "__main__":
    main(STUDY)
