"""Official scores of each task: `score("e2e", rows)` (see `tasks`), with rows `{"hypothesis", "references"}`."""

from prefix_jax.metrics.rows import Row, read_rows
from prefix_jax.metrics.tasks import TASKS, Measured, check, measure, notes, quick_bleu, score, try_out

__all__ = ["TASKS", "Measured", "Row", "check", "measure", "notes", "quick_bleu", "read_rows", "score", "try_out"]
