"""The embedded set: descriptions of lighthouses, written by `data/grammar.py`."""

from prefix_jax.data.data_set import DataSet
from prefix_jax.metrics.shared import ANY_TEXT
from prefix_jax.tasks import text
from prefix_jax.tasks.task import Task

TASK = Task(
    name="lighthouse",
    data=DataSet(records=text.records, embedded=("prefix_jax.data", "lighthouse")),
    metrics=ANY_TEXT,
    former_name="table",
)
