"""`python -m experiments.methods SWEEP_DIRECTORY`: keeps what the sweep of `configs/e2e_methods.py` found, and a table.

Copies each run's configuration, metrics and scores to a folder of its own here, and writes the table of `README.md`
between its markers. The paper's numbers come from its own tables, in `$PREFIX_JAX_DATA/paper/tables.json`.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from prefix_jax.reporting.tables import markdown_table, write_between_markers

FOLDER = Path(__file__).parent
METRICS = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")


def keep(sweep: Path) -> None:
    """Copies what explains the scores of a sweep's rows."""
    for row in json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["rows"]:
        folder = FOLDER / row["name"]
        folder.mkdir(exist_ok=True)
        for name in ("config.json", "metrics.jsonl", "scores.json"):
            shutil.copyfile(sweep / row["directory"] / name, folder / name)


def named(config: dict[str, Any]) -> tuple[str, str]:
    """Returns what a run is called in the table, and in the paper's."""
    method, section = config["method"], config.get(config["method"], {})
    if method == "prefix":
        direct = section["reparameterisation"] == "none"
        return f"prefix {section['length']}, {'direct' if direct else 'MLP'}", "" if direct else "PREFIX(0.1%)"
    if method == "prompt":
        return f"prompt {section['length']}", f"EMB-{section['length']}"
    if method == "finetune":
        top = section["layers"]
        return f"fine-tuning, last {top} layers" if top else "fine-tuning", "FT-TOP2" if top == 2 else "FINE-TUNE"
    if method == "adapter":
        return f"adapters of {section['width']}", "ADAPTER(3%)"
    return f"LoRA, rank {section['rank']}", ""


def paper() -> dict[str, list[float]]:
    """Returns the paper's E2E scores with GPT-2 Medium by method; nothing where its tables are absent."""
    path = Path(os.environ.get("PREFIX_JAX_DATA", "")) / "paper" / "tables.json"
    if not path.is_file():
        return {}
    tables = json.loads(path.read_text(encoding="utf-8"))
    main = {name: row["E2E"] for name, row in tables["main_table_arxiv_v1_Table1"]["GPT2-MEDIUM"].items()}
    return {**main, **tables["ablation_E2E_BLEU_NIST_MET_RL_CIDEr"]}


def table() -> str:
    """Returns the scores of every run here as Markdown, the best first."""
    published, rows = paper(), []
    for folder in sorted(path.parent for path in FOLDER.glob("*/scores.json")):
        record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        entry = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["test"]
        last = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        config, counts = record["config"], record["parameters"]
        title, theirs = named(config)
        scores = [f"{entry['tuned'][name]:.2f}" for name in METRICS]
        about = [title, f"{counts['trained']:,}", f"{counts['stored']:,}", str(config["optimizer"]["learning_rate"])]
        minutes, bleu = f"{last['seconds'] / 60:.1f}", published.get(theirs, [None])[0]
        rows.append([*about, minutes, *scores, "" if bleu is None else f"{bleu:.1f}", f"`{record['commit']}`"])
    rows.sort(key=lambda row: -float(row[5]))
    titles = ["method", "trained", "stored", "learning rate", "minutes", *METRICS, "the paper's BLEU", "commit"]
    return markdown_table(rows, titles)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sweep", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.sweep:
        keep(arguments.sweep)
    write_between_markers(FOLDER / "README.md", table())


if __name__ == "__main__":
    main()
