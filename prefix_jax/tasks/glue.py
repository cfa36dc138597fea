"""GLUE and SuperGLUE: a row for each task, from the hub or from files with the hub's columns.

Sources and the words of labels are those of T5 (Raffel et al. 2020): "mnli premise: ... hypothesis: ...". The labels of
the test splits are not published: the validation split is what can be scored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefix_jax.data.data_set import Columns, DataSet
from prefix_jax.data.files import Row, text_field, value_at
from prefix_jax.data.hub import HubSet
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError
from prefix_jax.metrics.answers import CORRELATIONS, EM_OF_QUESTIONS, SQUAD
from prefix_jax.metrics.classification import ACCURACY, MCC, f1_of, macro_f1
from prefix_jax.metrics.metric import PERCENT, Metric
from prefix_jax.tasks.labels import label
from prefix_jax.tasks.task import Task


@dataclass(frozen=True)
class Benchmark:
    """A task of a suite.

    Attributes:
      name: the hub's configuration.
      texts: the columns of a source.
      labels: the words of labels 0, 1, ...
      metrics: the official ones.
      validation: the hub's name of the validation split.
      read: (row, input id) -> records, where a row is not texts and a label.
      choices: a row's own, if any.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[Metric, ...]
    validation: str = "validation"
    read: Callable[["Benchmark", Row, str], list[Record]] | None = None
    choices: Callable[[Row], tuple[str, ...]] = lambda row: ()

    def source(self, row: Row) -> str:
        parts = [f"{name}: {str(row[1].get(name, '')).strip() or text_field(row, name)}" for name in self.texts]
        return " ".join([self.name.partition(".")[0], *parts])

    def prompt(self, row: Row, columns: Columns) -> tuple[str, tuple[str, ...]]:
        return self.source(row), self.choices(row)

    def records(self, table: list[Row], split: str, columns: Columns, notes: Any) -> list[Record]:
        read = self.read or Benchmark.labelled
        return [record for i, row in enumerate(table) for record in read(self, row, f"{split}-{i}")]

    def labelled(self, row: Row, name: str, category: str | None = None) -> list[Record]:
        return [pair(self.source(row), self.label(row), category, name, 0, self.labels)]

    def label(self, row: Row) -> str:
        _published(row)
        return label(row, "label", {word: word for word in self.labels})


def _published(row: Row) -> None:
    if row[1].get("label") in (-1, -1.0, "-1"):
        raise UserError(f"{row[0]} has no label (-1): those of this split are not published; score another, such as "
                        "--split validation.")  # fmt: skip


def _similarity(task: Benchmark, row: Row, name: str) -> list[Record]:
    """STS-B: a number from 0 to 5; the text is that number to the next fifth, as T5's. Its exact value comes last among
    the references.
    """
    _published(row)
    try:
        value = float(row[1]["label"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f'{row[0]} has a "label" that is not a number from 0 to 5; correct the row.') from None
    text = f"{round(value * 5) / 5:.1f}"
    return [Record(task.source(row), text, (text, repr(value)), None, f"{name}#0", task.labels)]


def _two(row: Row) -> tuple[str, ...]:
    return tuple(text_field(row, column).strip() for column in ("choice1", "choice2"))


def _alternatives(task: Benchmark, row: Row, name: str) -> list[Record]:
    """COPA: two alternatives of the row's own."""
    _published(row)
    choices = _two(row)
    answer = label(row, "label", dict(zip(("0", "1"), choices, strict=True)))
    return [pair(task.source(row), answer, None, name, 0, choices)]


def _answer_of_question(task: Benchmark, row: Row, name: str) -> list[Record]:
    """MultiRC: answers to be judged; those of one question share a category."""
    index = row[1].get("idx")
    if isinstance(index, dict) and {"paragraph", "question"} <= index.keys():
        question = f"{index['paragraph']}-{index['question']}"
    else:
        question = "\n".join(text_field(row, column) for column in ("paragraph", "question"))
    return task.labelled(row, name, question)


def _named(row: Row) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.strip() for text in value_at(row[1], "entities", where=row[0], kind=list)))


def _entities(task: Benchmark, row: Row, name: str) -> list[Record]:
    """ReCoRD: the entities of a passage, of which several may be right."""
    entities = _named(row)
    answers = list(dict.fromkeys(text.strip() for text in value_at(row[1], "answers", where=row[0], kind=list)))
    if not answers:
        raise UserError(
            f"{row[0]} has no answers: those of the test split are not published; score --split validation."
        )
    return [pair(task.source(row), text, None, name, k, entities) for k, text in enumerate(answers)]


def _f1(positive: str) -> Metric:
    return Metric("f1", f1_of(positive), largest=PERCENT)


_TRUTH = ("False", "True")
_PAIR = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")
_ANSWERS = (Metric("F1a", f1_of("True"), largest=PERCENT), EM_OF_QUESTIONS)
_FIFTHS = tuple(f"{i / 5:.1f}" for i in range(26))
GLUE = (
    Benchmark("cola", ("sentence",), ("unacceptable", "acceptable"), (MCC,)),
    Benchmark("sst2", ("sentence",), ("negative", "positive"), (ACCURACY,)),
    Benchmark("mrpc", _PAIR, ("not_equivalent", "equivalent"), (_f1("equivalent"), ACCURACY)),
    Benchmark("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), (_f1("duplicate"), ACCURACY)),
    Benchmark("stsb", _PAIR, _FIFTHS, CORRELATIONS, read=_similarity),
    Benchmark(
        "mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), (ACCURACY,), "validation_matched"
    ),
    Benchmark("qnli", ("question", "sentence"), _ENTAILED, (ACCURACY,)),
    Benchmark("rte", _PAIR, _ENTAILED, (ACCURACY,)),
    Benchmark("wnli", _PAIR, ("not_entailment", "entailment"), (ACCURACY,)),
)
SUPERGLUE = (
    Benchmark("boolq", ("question", "passage"), _TRUTH, (ACCURACY,)),
    Benchmark("cb", ("premise", "hypothesis"), ("entailment", "contradiction", "neutral"),
              (Metric("macro_f1", macro_f1, largest=PERCENT), ACCURACY)),
    Benchmark("copa", ("premise", "question"), (), (ACCURACY,), read=_alternatives, choices=_two),
    Benchmark("multirc", ("question", "paragraph", "answer"), _TRUTH, _ANSWERS, read=_answer_of_question),
    Benchmark("record", ("query", "passage"), (), SQUAD, read=_entities, choices=_named),
    Benchmark("rte", ("premise", "hypothesis"), _ENTAILED, (ACCURACY,)),
    Benchmark("wic", ("word", "sentence1", "sentence2"), _TRUTH, (ACCURACY,)),
    Benchmark("wsc.fixed", ("span1_text", "span2_text", "text"), _TRUTH, (ACCURACY,)),
)  # fmt: skip


def _task(suite: str, hub: str, row: Benchmark) -> Task:
    name = row.name.partition(".")[0]
    return Task(
        name=f"{suite}_{name}",
        data=DataSet(
            folder=f"{suite}/{name}",
            records=row.records,
            hub=HubSet(hub, row.name, row.validation),
            from_hub=row.records,
            prompt=row.prompt,
        ),
        metrics=row.metrics,
        labels=row.labels or None,
    )


TASKS = (
    *(_task("glue", "nyu-mll/glue", row) for row in GLUE),
    *(_task("superglue", "aps/super_glue", row) for row in SUPERGLUE),
)
