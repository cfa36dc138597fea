"""CNN/DailyMail: summaries of several sentences."""

from prefix_jax.data.data_set import DataSet
from prefix_jax.data.hub import HubSet
from prefix_jax.data.rows import of_column, one_line, summaries
from prefix_jax.metrics.shared import rouge_metrics
from prefix_jax.tasks.task import Task

_records = summaries("article", "highlights")
TASK = Task(
    name="cnn_dm",
    data=DataSet(
        folder="cnn_dm",
        records=_records,
        hub=HubSet("abisee/cnn_dailymail", "3.0.0"),
        from_hub=_records,
        prompt=of_column("article"),
    ),
    metrics=rouge_metrics("rouge1", "rouge2", "rougeL", "rougeLsum"),
    as_read=one_line,
    pipeline_tag="summarization",
)
