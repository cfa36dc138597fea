"""`python -m experiments.overview`: tables of stored results in README.md and docs/results.md, beside the paper's."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments import collect, naming, published, results
from experiments.readme import spread_text, values
from prefix_jax.reporting.tables import markdown_table, write_between_markers

FOLDER = Path(__file__).parent
README, PAGE = FOLDER.parent / "README.md", FOLDER.parent / "docs" / "results.md"


class Column(NamedTuple):
    """One metric of one task, and the study that measured it at the scale "cpu"."""

    title: str
    study: str
    task: str
    metric: str


COLUMNS = (
    Column("E2E, BLEU", "main_table", "e2e", "BLEU"),
    Column("WebNLG seen, BLEU", "extrapolation", "webnlg", "BLEU_seen"),
    Column("WebNLG unseen, BLEU", "extrapolation", "webnlg", "BLEU_unseen"),
    Column("DART, BLEU", "main_table", "dart", "BLEU"),
)


def cells(column: Column) -> Mapping[str, str]:
    """Returns a column's cell for each method: our score, and the paper's if available."""
    found = results.read(FOLDER / column.study / results.FILE_NAME)
    chosen = [r for r in found if r.scale == "cpu" and r.option("data.task") == column.task and r.scores]
    made = {}
    for same in results.grouped(chosen, naming.kind):
        theirs = naming.main_table(same[0]).get(column.metric)
        ours = spread_text(column.task, column.metric, values(same, column.metric))
        made[naming.kind(same[0])] = f"{ours} / {'-' if theirs is None else f'{theirs:g}'}"
    return made


def table() -> str:
    """Returns one row per method, in the order of the studies."""
    columns = {column.title: cells(column) for column in COLUMNS}
    columns = {title: made for title, made in columns.items() if made}
    methods = dict.fromkeys(method for made in columns.values() for method in made)
    rows: list[list[object]] = [[name, *(made.get(name, "") for made in columns.values())] for name in methods]
    return markdown_table(rows, ["ours / the paper's", *columns])


def whole_test_set() -> str:
    """Returns the scores of the runs in `e2e`, bare and tuned, beside the paper's."""
    rows: list[list[object]] = []
    for record, entry, last in collect.kept(FOLDER / "e2e"):
        model, counts = record["config"]["model"]["source"], record["parameters"]
        size = f"{counts['base'] / 1e6:.0f} million frozen parameters"
        rows.append([f"{model} ({size}) as it is", *_printed(entry["bare"])])
        tuned = f"{model}, a prefix of {counts['stored']:,} numbers, {last['seconds'] / 60:.0f} minutes"
        rows.append([tuned, *_printed(entry["tuned"])])
    theirs = published.scores(published.E2E, "main_table_arxiv_v1_Table1", "GPT2-MEDIUM", "PREFIX(0.1%)", "E2E")
    rows.append(["the paper: GPT-2 Medium, prefix 5, five epochs (arXiv v1, Table 1)", *_printed(theirs)])
    return markdown_table(rows, ["", *published.E2E])


def _printed(scores: Mapping[str, float]) -> list[str]:
    """Formats scores with as many digits as the paper."""
    return [f"{scores[metric]:.{2 if metric in ('NIST', 'CIDEr') else 1}f}" for metric in published.E2E]


if __name__ == "__main__":
    write_between_markers(README, whole_test_set(), "scores of e2e")
    write_between_markers(PAGE, table())
