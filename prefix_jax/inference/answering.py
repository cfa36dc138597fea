"""A model's output for each record: the best of its choices, or a generated text."""

from collections.abc import Sequence

from prefix_jax import tasks
from prefix_jax.data.records import Record, normal_text
from prefix_jax.evaluation import answers
from prefix_jax.inference.generation import source_ids, write_texts
from prefix_jax.training.selection import columns
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState


def outputs(
    opened: Session,
    kept: TunedState | None,
    records: Sequence[Record],
    label: str = "",
    progress: bool = True,
    where: str = "input",
) -> list[str]:
    """Returns the model's output for each record; `kept=None` is the bare model.

    Records with choices are answered by log-likelihood, unless the configuration asks for generated texts.

    Args:
      label: name of the progress bar.
      where: name of the sources, for warnings about truncated sources or unknown words; "": no warnings.

    Raises:
      UserError: as `write_texts`, or only some records have choices.
    """
    sources = [record.source for record in records]
    if answers.by_likelihood(opened.config, records):
        ids = source_ids(opened, sources, where, 0 if kept is None else kept.reserved)
        return answers.choose(opened, kept, records, ids, label, progress)
    return write_texts(opened, kept, sources, label, progress=progress, where=where)


def unanswered(opened: Session, sources: Sequence[str]) -> list[Record]:
    """Returns typed sources as records without an answer; the labels of the run's task are their choices.

    Raises:
      UserError: the task's labels are not named and the training data cannot be read.
    """
    config = opened.config
    found = tasks.find(config.data.task)
    wanted = config.task.answer == "likelihood"
    choices = tasks.shared_choices(found.name, config.data.path, columns(config)) if wanted else ()
    read = lambda text: normal_text(found.as_read(text), config.data.unicode)
    return [Record(read(source), "", (), None, str(i), choices) for i, source in enumerate(sources, 1)]
