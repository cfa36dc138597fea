"""Each task's official scores: `score("e2e", rows)` (see `tasks`), rows being `{"hypothesis", "references"}`."""

from prefix_jax.metrics.rows import Row, read_rows
from prefix_jax.metrics.tasks import TASKS, quick_bleu, score

__all__ = ["TASKS", "Row", "quick_bleu", "read_rows", "score"]
