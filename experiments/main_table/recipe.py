"""The main table: E2E, WebNLG and DART with a prefix, adapters of two sizes, and fine-tuning of all or of two layers
(arXiv v1 Table 1; Table 2 of the ACL version).

    python -m experiments.main_table --scale=cpu --workdir runs/main_table

"paper": GPT-2 Medium, and Large for prefix and fine-tuning, as published. "cpu": FLAN-T5-small, 60 steps of 8 records a
task, one seed, 40 test records.
"""

from collections.abc import Iterator
from typing import Any

from experiments import published, scales
from prefix_jax.config import Config

TASKS = ("e2e", "webnlg", "dart")
# Widths of which the adapters have 3 % and 0.1 % of the model's parameters.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "prefix": {"method": "prefix"},
        "finetune": {"method": "finetune", "finetune.layers": 0},
        "finetune top 2": {"method": "finetune", "finetune.layers": 2},
        "adapter 3 %": {"method": "adapter", "adapter.width": 108},
        "adapter 0.1 %": {"method": "adapter", "adapter.width": 3},
    },
    "cpu": {
        "prefix": {"method": "prefix", "optimizer.learning_rate": 2e-3},
        "finetune": {"method": "finetune", "finetune.layers": 0, "optimizer.learning_rate": 5e-4},
        "finetune top 2": {"method": "finetune", "finetune.layers": 2, "optimizer.learning_rate": 1e-3},
        "adapter 3 %": {"method": "adapter", "adapter.width": 56, "optimizer.learning_rate": 2e-3},
        "adapter 0.1 %": {
            "method": "adapter", "adapter.places": "mlp", "adapter.width": 4, "optimizer.learning_rate": 2e-3,
        },
    },
}  # fmt: skip
LARGE = ("prefix", "finetune")


def get_config(scale: str = "cpu") -> Config:
    config = scales.table_to_text(scale, TASKS[0])
    config.prefix.length = published.PREFIX_LENGTHS[TASKS[0]]
    if scale == "cpu":
        config.training.steps = 60
    return config


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    if scales.check(scale) == "cpu":
        # The extrapolation study has WebNLG with three seeds: it comes last.
        for task in ("dart", "e2e", "webnlg"):
            yield from (_on(task, options) for options in METHODS["cpu"].values())
        return
    for source, methods in (("gpt2-medium", tuple(METHODS["paper"])), ("gpt2-large", LARGE)):
        for task in TASKS:
            for method in methods:
                chosen = published.training(method, task)
                yield {"model.source": source, **_on(task, METHODS["paper"][method]), **chosen}


def _on(task: str, options: dict[str, Any]) -> dict[str, Any]:
    length = {"prefix.length": published.PREFIX_LENGTHS[task]} if options["method"] == "prefix" else {}
    return {"data.task": task, **options, **length}
