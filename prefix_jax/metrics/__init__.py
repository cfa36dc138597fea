"""Metrics: the rows of a table (`metric`), those that any task may choose (`shared`), and the libraries below them.

The scores of a task are in `prefix_jax.tasks`: `tasks.score("e2e", rows)`, rows being `{"hypothesis", "references"}`.
"""

from prefix_jax.metrics.metric import How, Measured, Metric
from prefix_jax.metrics.rows import Row, read_rows
from prefix_jax.metrics.shared import METRICS

__all__ = ["METRICS", "How", "Measured", "Metric", "Row", "read_rows"]
