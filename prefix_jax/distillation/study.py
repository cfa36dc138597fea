"""Questions about a document that the model writes itself, and its answers with the whole document as prefix."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefix_jax import tasks
from prefix_jax.data.conversations import USER, Conversation
from prefix_jax.errors import UserError
from prefix_jax.inference import write_texts
from prefix_jax.models.prefix import Prefix
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState
from prefix_jax.workdir import read_study, write_study

# What questions are asked for: the kinds of the Cartridges paper (2506.06266, section 4.1).
PROMPTS = (
    "Write one short question about a fact in the text above. Write only the question.",
    "Write one question about the text above that begins with Who, When, Where or Which. Write only the question.",
    "Write one instruction to put facts of the text above in order, such as a list. Write only the instruction.",
    "Write one instruction to summarise a part of the text above. Write only the instruction.",
    "Write one question that somebody who needs the text above for a task would ask. Write only the question.",
)
# Questions that are written and answered, then kept on the disk.
_ROUND = 64
# One of so many questions to train on measures the validation loss.
_EIGHTH = 8

Row = dict[str, Any]


class Asking(NamedTuple):
    """How questions are written.

    Attributes:
      prompts: what a question is asked for, in turn.
      chunk: tokens of the document that a question is about.
      temperature: of sampled questions; answers are greedy.
      question_tokens: at most, of a question.
      answer_tokens: at most, of an answer.
      seed: of the questions.
    """

    prompts: tuple[str, ...] = PROMPTS
    chunk: int = 256
    temperature: float = 0.6
    question_tokens: int = 48
    answer_tokens: int = 64
    seed: int = 0


def chunks(ids: Sequence[int], size: int) -> list[list[int]]:
    """Returns the ids in parts of about equal length, of at most `size`."""
    count = -(-len(ids) // size)
    ends = [len(ids) * i // count for i in range(count + 1)]
    return [list(ids[start:end]) for start, end in itertools.pairwise(ends)]


def rows(
    session: Session,
    document: Prefix,
    text: str,
    count: int,
    asking: Asking,
    workdir: Path | None = None,
    given: Sequence[str] = (),
    progress: bool = True,
) -> list[Row]:
    """Returns questions and answers, each `{"number", "source", "target"}`, of as many as are wanted.

    A question without text, one asked before, and one without an answer are left out. With a `workdir`, rows are kept
    there after each round, and not written again.

    Args:
      session: its configuration is that of texts after the document.
      document: the whole document as a prefix.
      given: questions in place of those that the model writes.

    Raises:
      UserError: the model wrote nothing that could be used.
    """
    found = [] if workdir is None else [row for row in read_study(workdir) if row["number"] < count]
    begin = 1 + max((row["number"] for row in found), default=-1)
    known = {row["source"] for row in found}
    for start in range(begin, count, _ROUND):
        numbers = range(start, min(start + _ROUND, count))
        asked = [given[i] for i in numbers] if given else questions(session, text, numbers, asking, progress)
        fresh: dict[str, int] = {}
        for question, number in zip(asked, numbers, strict=True):
            if question and question not in known:
                fresh.setdefault(question, number)
        answers = answered(session, document, list(fresh), asking, progress) if fresh else []
        known |= set(fresh)
        named = zip(fresh.items(), answers, strict=True)
        found += [{"number": number, "source": q, "target": answer} for (q, number), answer in named if answer.strip()]
        if workdir is not None:
            write_study(workdir, found)
    if not found:
        raise UserError("the model wrote no question that it answers; give questions, or choose a larger --model")
    return found


def questions(session: Session, text: str, numbers: Sequence[int], asking: Asking, progress: bool = True) -> list[str]:
    """Returns the questions of these numbers, which are the same whatever others are asked for."""
    parts = [session.tokenizer.decode(ids) for ids in chunks(_ids(session, text), asking.chunk)]
    kinds = len(asking.prompts)
    sources = [f"{parts[(n // kinds) % len(parts)].strip()}\n\n{asking.prompts[n % kinds]}" for n in numbers]
    # Before the document, and with the tokenizer's own template: the chunk is in the prompt.
    chat = bool(getattr(session.tokenizer, "chat_template", None))
    plain = {"data.source_format": "{source}\nQuestion:", "data.target_format": "{target}"}
    options = {
        "data.task": tasks.CHAT if chat else tasks.ANY_ROWS,
        "data.chat_template": "",
        **({"data.source_format": "", "data.target_format": ""} if chat else plain),
        "data.max_source_length": 4 * asking.chunk + 256,
        "prefix.offset": 0,
        "decoding.strategy": "sample",
        "decoding.temperature": asking.temperature,
        "decoding.max_length": asking.question_tokens,
        "decoding.seed": asking.seed,
    }
    if chat:
        sources = [Conversation(({"role": USER, "content": source},)).text() for source in sources]
    found = write_texts(_with(session, options), None, sources, "questions", progress, "", numbers)
    return [_one(question) for question in found]


def answered(
    session: Session, document: Prefix, asked: Sequence[str], asking: Asking, progress: bool = True
) -> list[str]:
    """Returns the model's greedy answers with the whole document as prefix."""
    options = {"decoding.strategy": "greedy", "decoding.max_length": asking.answer_tokens}
    return write_texts(_with(session, options), TunedState(document), asked, "answers", progress, "")


def _one(text: str) -> str:
    """Returns the first paragraph of what was written, without quotation marks around it."""
    first = next((part for part in text.strip().split("\n") if part.strip()), "")
    return first.strip().strip('"').strip()


def _ids(session: Session, text: str) -> list[int]:
    return session.tokenizer(text, add_special_tokens=False)["input_ids"]


def _with(session: Session, options: dict[str, Any]) -> Session:
    config = session.config.copy_and_resolve_references()
    config.update_from_flattened_dict(options)
    return session.of(config)


Splits = dict[str, list[Row]]


def divided(found: Sequence[Row], held_out: int) -> Splits:
    """Returns the rows of the splits: test has the first `held_out` numbers, validation an eighth of the others.

    A split without rows is left out.
    """
    splits: Splits = {}
    for row in found:
        after = row["number"] - held_out
        split = "test" if after < 0 else "validation" if after % _EIGHTH == _EIGHTH - 1 else "train"
        splits.setdefault(split, []).append(row)
    return splits
