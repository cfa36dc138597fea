"""A model's output for each record: the best of its choices, or a generated text."""

from collections.abc import Sequence

from prefix_jax import tasks
from prefix_jax.data.files import Row
from prefix_jax.data.records import Record, normal_text, normalised
from prefix_jax.evaluation import answers, likelihood
from prefix_jax.evaluation.scorers import by_likelihood_alone
from prefix_jax.inference.generation import source_ids, write_texts
from prefix_jax.training.conversations import is_chat
from prefix_jax.training.plain_text import is_plain
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
    numbers: Sequence[int] | None = None,
) -> list[str]:
    """Returns the model's output for each record; `kept=None` is the bare model.

    Records with choices are answered by log-likelihood, unless the configuration asks for generated texts. The output
    for a plain text is its log-likelihood, as is that for a conversation where no metric needs a text.

    Args:
      label: name of the progress bar.
      where: name of the sources, for warnings about truncated sources or unknown words; "": no warnings.
      numbers: of the records, as in `write_texts`.

    Raises:
      UserError: as `write_texts`, or only some records have choices.
    """
    if is_plain(opened.config) and not any(record.source for record in records):
        return likelihood.of_texts(opened, kept, records, label, progress)
    if is_chat(opened.config) and by_likelihood_alone(opened.config) and all(record.target for record in records):
        return likelihood.of_conversations(opened, kept, records, label, progress)
    sources = [record.source for record in records]
    if answers.by_likelihood(opened.config, records):
        ids = source_ids(opened, sources, where, 0 if kept is None else kept.reserved, numbers)
        return answers.choose(opened, kept, records, ids, label, progress)
    return write_texts(opened, kept, sources, label, progress=progress, where=where, numbers=numbers)


def likelihoods(
    opened: Session, kept: TunedState | None, records: Sequence[Record], label: str = "", progress: bool = True
) -> list[str]:
    """Returns the log-likelihood of each conversation's assistant turns, beside `outputs`; nothing of other tasks."""
    if not is_chat(opened.config) or by_likelihood_alone(opened.config):
        return []
    return likelihood.of_conversations(opened, kept, records, label, progress)


def unanswered(opened: Session, sources: Sequence[str | Row]) -> list[Record]:
    """Returns typed sources, or rows in the columns of the run's task, as records without an answer; the labels of the
    task, or a row's own choices, are their choices.

    Raises:
      UserError: the task's labels are not named and the training data cannot be read, or a row lacks a column.
    """
    config = opened.config
    found = tasks.find(config.data.task)
    wanted = config.task.answer == "likelihood"
    shared = tasks.shared_choices(config.data.task, config.data.path, columns(config)) if wanted else ()
    records = []
    for i, given in enumerate(sources, 1):
        typed = isinstance(given, str)
        source, own = (
            (found.as_read(normal_text(given, config.data.unicode)), ())
            if typed
            else tasks.prompt(config.data.task, given, columns(config))
        )
        record = Record(source, "", (), None, str(i), (own if wanted else ()) or shared)
        records.append(normalised(record, config.data.unicode))
    return records
