"""Hyperparameters and results published by Li & Liang 2021: options of rows, and tables.

Table values are read from `$PREFIX_JAX_DATA/paper/tables.json`, in the printed units.
"""

import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Options = dict[str, Any]

# Metrics of the paper's tables, by the scorers' names here; MoverScore, BERTScore and BLEURT of DART are omitted,
# because they need separate models.
E2E = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
WEBNLG = tuple(f"{metric}_{part}" for metric in ("BLEU", "METEOR", "TER") for part in ("seen", "unseen", "all"))
DART = ("BLEU", "METEOR", "TER")
SUMMARIES = ("rouge1", "rouge2", "rougeL")
METRICS = {"e2e": E2E, "webnlg": WEBNLG, "dart": DART, "xsum": SUMMARIES}

# Method and task: learning rate, epochs, batch (arXiv v1, Table 5).
_PUBLISHED = {
    ("prefix", "e2e"): (8e-5, 5, 10),
    ("prefix", "webnlg"): (5e-5, 5, 5),
    ("prefix", "dart"): (5e-5, 10, 5),
    ("prefix", "xsum"): (5e-5, 30, 14),
    ("prefix", "within-news"): (5e-5, 30, 36),
    ("prefix", "news-to-sports"): (5e-5, 15, 36),
    ("adapter 3 %", "e2e"): (5e-5, 5, 5),
    ("adapter 0.1 %", "e2e"): (8e-5, 10, 5),
    ("adapter 3 %", "webnlg"): (5e-5, 5, 5),
    ("adapter 0.1 %", "webnlg"): (5e-5, 10, 5),
    ("adapter 3 %", "dart"): (5e-5, 5, 5),
    ("adapter 0.1 %", "dart"): (8e-5, 5, 5),
    ("finetune", "e2e"): (5e-5, 5, 10),
    ("finetune", "webnlg"): (1e-5, 10, 6),
    ("finetune", "dart"): (1e-5, 10, 6),
    ("finetune", "within-news"): (3e-5, 5, 18),
    ("finetune", "news-to-sports"): (3e-5, 5, 18),
    ("finetune top 2", "e2e"): (5e-5, 5, 10),
    ("finetune top 2", "webnlg"): (5e-5, 10, 9),
    ("finetune top 2", "dart"): (5e-5, 5, 5),
}
PREFIX_LENGTHS = {"e2e": 5, "webnlg": 5, "dart": 10, "xsum": 100, "within-news": 80, "news-to-sports": 40}


def training(method: str, task: str) -> Options:
    """Returns the paper's learning rate, epochs and batch size for a method on a task."""
    rate, epochs, batch = _PUBLISHED[method, task]
    return {"optimizer.learning_rate": rate, "training.epochs": float(epochs), "training.batch": batch}


@functools.cache
def tables() -> Mapping[str, Any]:
    """Returns the paper's tables; empty if the file is missing."""
    path = Path(os.environ.get("PREFIX_JAX_DATA", "")) / "paper" / "tables.json"
    if not path.is_file():
        print("$PREFIX_JAX_DATA has no paper/tables.json: the paper's numbers are left out", file=sys.stderr)
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def scores(metrics: Sequence[str], *path: str) -> dict[str, float]:
    """Returns the values at a path of the tables by metric; empty if the paper has none."""
    found: Any = tables()
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return {m: v for m, v in zip(metrics, found, strict=False) if v is not None} if isinstance(found, list) else {}
