"""XSUM: summaries of one sentence."""

from prefix_jax.data.data_set import DataSet
from prefix_jax.data.hub import HubSet
from prefix_jax.data.rows import of_column, one_line, summaries
from prefix_jax.metrics.shared import rouge_metrics
from prefix_jax.tasks.task import Task

_records = summaries("document", "summary")
TASK = Task(
    name="xsum",
    data=DataSet(
        folder="xsum",
        records=_records,
        hub=HubSet("EdinburghNLP/xsum"),
        from_hub=_records,
        prompt=of_column("document"),
    ),
    metrics=rouge_metrics("rouge1", "rouge2", "rougeL"),
    as_read=one_line,
    pipeline_tag="summarization",
)
