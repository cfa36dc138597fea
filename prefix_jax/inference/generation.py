"""Text that a model generates for sources, with or without its tuned state."""

import sys
from collections.abc import Callable, Sequence

from prefix_jax import decoding
from prefix_jax.data import audit, languages, tokens
from prefix_jax.errors import UserError
from prefix_jax.models import finite
from prefix_jax.parallel import distributed
from prefix_jax.training import conversations
from prefix_jax.training.conversations import is_chat
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState


def write_texts(
    opened: Session,
    kept: TunedState | None,
    sources: Sequence[str],
    label: str = "",
    progress: bool = True,
    where: str = "input",
    numbers: Sequence[int] | None = None,
) -> list[str]:
    """Generates the model's text for each source; `kept=None` is the bare model.

    Args:
      where: name of the sources, for warnings about truncated sources or unknown words; "": no warnings.
      numbers: of the sources, for their seeds (from 0) and, plus 1, for messages; None: 0, 1, ...

    Raises:
      UserError: a source is empty, too long, or has unknown token ids; a decoding option is invalid; or the model's
        outputs are not finite.
    """
    options = decoding_options(opened)
    kept = kept or TunedState()
    numbers = range(len(sources)) if numbers is None else numbers
    ragged = source_ids(opened, sources, where, kept.reserved, numbers)
    ids = [[opened.model_config.pad_id] * kept.reserved + ragged[i].tolist() for i in range(len(sources))]
    model, variables, prefix = opened.model, kept.onto(opened.base), kept.prefix
    batch = min(opened.config.decoding.batch, len(ids))
    decode = lambda done: decoding.decode_all(model, variables, prefix, ids, options, batch, done, numbers)
    try:
        return opened.printer.texts(with_progress(decode, len(ids), label, progress))
    except decoding.NotFinite as error:
        said = f"the model's outputs for input {numbers[error.row] + 1} are not finite"
        raise UserError(f"{said}: {finite.blame(opened.base, kept)}") from None


Decode = Callable[[Callable[[int], None] | None], list[list[int]]]


def with_progress(decode: Decode, count: int, label: str, progress: bool) -> list[list[int]]:
    """Calls `decode` with a function that shows how many of `count` inputs are finished; None: shows nothing."""
    if not progress or not distributed.is_primary():
        return decode(None)
    with Progress(count, start=0, label=label) as bar:
        return decode(lambda done: bar.update(done, {}))


def decoding_options(opened: Session) -> decoding.GenerationConfig:
    """Returns the options of decoding: the configuration's, and the model's where it has none.

    Raises:
      UserError: an option is invalid.
    """
    model = decoding.of_model(opened.pretrained.config, opened.model_config)
    model = model._replace(forced_bos=_first_token(opened, model.forced_bos))
    options = decoding.GenerationConfig.from_config(opened.config.decoding, opened.more_ends, model)
    if distributed.is_primary() and set(opened.printer.ends) <= set(options.banned_tokens):
        said = f"decoding.banned_tokens has every token that ends a text ({', '.join(map(str, opened.printer.ends))})"
        print(f"{said}: all texts run to decoding.max_length={options.max_length}", file=sys.stderr)
    return options


def _first_token(opened: Session, of_model: int | None) -> int | None:
    """Returns the token that every text begins with: of the option, of the target language, or of the model."""
    name, data = opened.config.decoding.forced_bos_token, opened.config.data
    if name == "none":
        return None
    if name:
        if not opened.model_config.is_encoder_decoder:
            raise UserError("decoding.forced_bos_token is for encoder-decoder models; put the token into the prompt")
        token = opened.tokenizer.convert_tokens_to_ids(name)
        if token is None or token == opened.tokenizer.unk_token_id or not 0 <= token < opened.model_config.vocab_size:
            raise UserError(f'decoding.forced_bos_token "{name}" is not a token of this model\'s vocabulary')
        return token
    if not data.target_language:
        return of_model
    first = languages.begin(opened.tokenizer, data.target_language).first
    return of_model if first is None else first


def source_ids(
    opened: Session, sources: Sequence[str], where: str, reserved: int, numbers: Sequence[int] | None = None
) -> tokens.Ragged:
    """Returns the checked token ids of the sources, and reports tokenisation losses.

    Args:
      numbers: of the sources, from 0, for messages; None: 0, 1, ...
    """
    if is_chat(opened.config):
        return conversations.prompts(opened, sources, where)
    numbers = range(len(sources)) if numbers is None else numbers
    for number, source in zip(numbers, sources, strict=True):
        if not source.strip():
            raise UserError(f"input {number + 1} is empty; give it text or leave it out")
    data, format = opened.config.data, opened.formats.source
    limit, window = data.max_source_length, opened.model_config.context_length
    if opened.model_config.is_encoder_decoder and window is not None:  # truncated as in training
        limit = min(limit, window - reserved)
    ragged, whole = tokens.sources_and_lengths(sources, opened.tokenizer, format, limit)
    opened.check_ids(ragged, lambda i: f"input {numbers[i] + 1}")
    if where:
        frame = tokens.frame(format, "source", opened.tokenizer)
        found = audit.source_findings(sources, ragged, whole, frame, opened.tokenizer, limit)
        audit.say(where, found, audit.strict(data.strict), quiet=not distributed.is_primary())
    return ragged
