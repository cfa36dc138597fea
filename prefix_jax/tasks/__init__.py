"""Tasks: a file and a row for each, their splits and their scores."""

from prefix_jax.data.data_set import SPLITS, Columns, check_split
from prefix_jax.metrics.metric import Measured
from prefix_jax.tasks.registry import ANY_ROWS, CHAT, TASKS, current_name, find
from prefix_jax.tasks.scoring import check_scored, measure, metrics_of, notes, score, try_out
from prefix_jax.tasks.splits import check, files, inputs, pairs, prompt, read, shared_choices
from prefix_jax.tasks.task import Task

__all__ = [
    "ANY_ROWS",
    "CHAT",
    "SPLITS",
    "TASKS",
    "Columns",
    "Measured",
    "Task",
    "check",
    "check_scored",
    "check_split",
    "current_name",
    "files",
    "find",
    "inputs",
    "measure",
    "metrics_of",
    "notes",
    "pairs",
    "prompt",
    "read",
    "score",
    "shared_choices",
    "try_out",
]
