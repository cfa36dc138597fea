"""`python -m experiments.ablation`: see `recipe.py` and `README.md`."""

from collections.abc import Mapping
from pathlib import Path

from experiments import naming, published
from experiments.results import Result
from experiments.studies import Study, main

TABLE = "ablation_E2E_BLEU_NIST_MET_RL_CIDEr"


def labels(result: Result) -> dict[str, str]:
    return {"method": naming.method(result)}


def paper(result: Result) -> Mapping[str, float]:
    """Returns the paper's row: of the embeddings, one for both ways of training them."""
    method = result.option("method")
    rows = {"prefix": "PREFIX arXiv v1"} | {
        name: f"{short}-{result.option(f'{name}.length')}" for name, short in (("infix", "INFIX"), ("prompt", "EMB"))
    }
    return published.scores(published.E2E, TABLE, rows[method])


STUDY = Study(
    folder=Path(__file__).parent,
    labels=labels,
    scored={"paper": (), "cpu": ("--limit=40", "--spread")},
    paper=paper,
)

if __name__ == "__main__":
    main(STUDY)
