"""Answers to inputs with choices: for each input the choice to which the model gives the highest score."""

from collections.abc import Callable, Sequence

import numpy as np

from prefix_jax.config import check_task
from prefix_jax.data import continuations, tokens
from prefix_jax.data.records import Record
from prefix_jax.data.tokens import Ragged
from prefix_jax.decoding import choices
from prefix_jax.errors import UserError
from prefix_jax.models import finite
from prefix_jax.options import Config
from prefix_jax.parallel import distributed
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState

Tokens = Sequence[Sequence[int]]


def by_likelihood(config: Config, records: Sequence[Record]) -> bool:
    """Returns whether records are answered by the log-likelihoods of their choices.

    Raises:
      UserError: an option of the section `task` is invalid, or only some records have choices.
    """
    check_task(config)
    some = [bool(record.choices) for record in records]
    if config.task.answer != "likelihood" or not any(some):
        return False
    if not all(some):
        raise UserError(
            f"record {records[some.index(False)].id} has no choices, but others have; give each its choices"
        )
    return True


def options(config: Config, records: Sequence[Record]) -> dict[str, object]:
    """Returns what answers by likelihood depend on, as `scores.json` holds it; nothing where texts are generated."""
    if not by_likelihood(config, records):
        return {}
    return {"choices": {name: config.task[name] for name in ("normalisation", "calibrated", "boundary")}}


def choose(
    opened: Session,
    kept: TunedState | None,
    records: Sequence[Record],
    sources: Ragged,
    label: str = "",
    progress: bool = True,
) -> list[str]:
    """Returns the best choice of each record; `kept=None` is the bare model.

    Args:
      sources: the records' checked token ids.
      label: name of the progress bar.

    Raises:
      UserError: an input and its choice exceed the context length, or the model's outputs are not finite.
    """
    kept = kept or TunedState()
    prompts, ids = _tokens(opened, records, sources)
    if progress and distributed.is_primary():
        with Progress(len(records), start=0, label=label) as bar:
            sums = _score(opened, kept, prompts, ids, lambda count: bar.update(count, {}))
    else:
        sums = _score(opened, kept, prompts, ids)
    if opened.config.task.calibrated:
        sums = [a - b for a, b in zip(sums, _empty(opened, kept, records, ids), strict=True)]
    how = opened.config.task.normalisation
    found = []
    for record, own, scores in zip(records, ids, sums, strict=True):
        byte_counts = [len(text.encode()) for text in record.choices]
        best = int(np.argmax(choices.normalised(scores, [len(one) for one in own], byte_counts, how)))
        found.append(record.choices[best])
    return found


def _tokens(opened: Session, records: Sequence[Record], sources: Ragged) -> tuple[Tokens, list[list[list[int]]]]:
    """Returns the ids of each record's prompt and of its choices."""
    texts = [record.choices for record in records]
    plain = [sources[i].tolist() for i in range(len(records))]
    if opened.config.task.boundary == "trained":
        return plain, continuations.trained(texts, opened.tokenizer, opened.formats)
    if opened.model_config.is_encoder_decoder:
        return plain, continuations.separate(texts, opened.tokenizer, opened.formats)
    given = [record.source for record in records]
    limit = opened.config.data.max_source_length
    return continuations.joined(given, texts, opened.tokenizer, opened.formats, limit)


def _score(
    opened: Session, kept: TunedState, prompts: Tokens, ids: Sequence[Tokens], done: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    reserved = [opened.model_config.pad_id] * kept.reserved
    whole = [[*reserved, *prompt] for prompt in prompts]
    variables, batch = kept.onto(opened.base), opened.config.decoding.batch
    try:
        return choices.score_all(opened.model, variables, kept.prefix, whole, ids, batch, done)
    except choices.NotFinite as error:
        said = f"the model's outputs for input {error.row + 1} are not finite"
        raise UserError(f"{said}: {finite.blame(opened.base, kept)}") from None


def _empty(opened: Session, kept: TunedState, records: Sequence[Record], ids: Sequence[Tokens]) -> list[np.ndarray]:
    """Returns the log-likelihoods of the choices after an empty input; equal choices are scored once."""
    prompt = tokens.tokenise_sources([""], opened.tokenizer, opened.formats.source, 0)[0].tolist()
    if not prompt:  # a format without text or special tokens
        first = opened.tokenizer.bos_token_id
        prompt = [opened.tokenizer.eos_token_id if first is None else first]
    place: dict[tuple[int, ...], int] = {}
    places = [[place.setdefault(tuple(one), len(place)) for one in own] for own in ids]
    distinct, most = list(place), max(map(len, ids))
    groups = [distinct[start : start + most] for start in range(0, len(distinct), most)]
    sums = np.concatenate(_score(opened, kept, [prompt] * len(groups), groups))
    return [sums[own] for own in places]
