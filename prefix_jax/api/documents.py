"""`distill`: a prefix that stands for a document, the same as that of the command `distill`."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from prefix_jax.api.configuring import user_errors, with_options
from prefix_jax.api.language_model import LanguageModel
from prefix_jax.api.opening import load_model
from prefix_jax.api.results import History
from prefix_jax.api.tuned import Tuned
from prefix_jax.api.tuning import folder_of
from prefix_jax.config import default_config
from prefix_jax.distillation import distill as distilling
from prefix_jax.errors import UserError
from prefix_jax.training import conversations
from prefix_jax.tuning import TunedState
from prefix_jax.workdir import is_run, read_config, read_curves, read_distillation


def distill(
    model: LanguageModel | str,
    text: str,
    *,
    length: int = 128,
    method: str = "closed_form",
    questions: int | Sequence[str] = 64,
    held_out: int = 32,
    chat: bool | None = None,
    steps: int | None = None,
    workdir: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> Tuned:
    """Makes a short prefix that stands for a document; see docs/documents.md.

    What is returned answers questions as the model with the document before them. Its `record["fidelity"]` says how
    near it comes to that, beside the bare model and simpler prefixes.

    Args:
      model: what `load_model` returned, or what it takes: a decoder-only model without ALiBi.
      text: the document.
      length: slots of the prefix.
      method: "closed_form" (Attention Matching), "train" (that, then trained on the model's own answers), "first" (the
        first tokens' keys and values) or "chunks" (those of chunks spread over the document).
      questions: how many the model writes to learn from, or questions of your own.
      held_out: questions that measure what is made; the first of your own.
      chat: whether questions are turns of a chat; None: where the tokenizer has a chat template.
      steps: of training.
      workdir: the run directory, created or resumed; None: a temporary one, removed afterwards.
      options: any options by dotted name, such as `{"optimizer.learning_rate": 5e-3}`.

    Raises:
      UserError: the model cannot have the document as a prefix, or an option or the run directory is invalid.
      KeyboardInterrupt: training was interrupted; its last step is saved in `workdir`.

    >>> document = " ".join(target for source, target in pairs[:6])
    >>> short = pj.distill(lm, document, length=8, questions=[source for source, target in pairs[:6]], held_out=2)
    >>> short.prefix.decoder.bias.shape
    (2, 4, 8)
    >>> sorted(short.record["fidelity"])
    ['bare', 'chunks', 'closed_form', 'first', 'teacher']
    """
    lm = model if isinstance(model, LanguageModel) else load_model(model)
    given = [] if isinstance(questions, int) else [str(one) for one in questions]
    chosen = distilling.Options(
        length=length,
        method=method,
        questions=questions if isinstance(questions, int) else len(given),
        held_out=held_out,
        chat=chat,
    )
    chosen.check()
    if not isinstance(text, str) or not text.strip():
        raise UserError("the document has no text; give it as a string")
    with ExitStack() as stack, user_errors():
        folder = folder_of(workdir, stack)
        changes = {**({} if steps is None else {"training.steps": steps}), **dict(options or {})}
        changes |= {"training.tensorboard": False} if workdir is None else {}
        with_options(default_config(), changes)  # finds options that do not exist
        config = distilling.configured(lm._session.config, chosen, changes)
        session = lm._session.of(conversations.with_template(config))
        found = distilling.distill(session, text, folder, chosen, ["prefix_jax.distill"], given, progress=False)
        if not found.finished:
            raise KeyboardInterrupt("training was stopped")
        record = {**(read_config(folder) if is_run(folder) else {}), **read_distillation(folder)}
        history = History.of(read_curves(folder))
        place = None if workdir is None else folder
        return Tuned(found.session, TunedState(found.prefix), history=history, record=record, workdir=place)
