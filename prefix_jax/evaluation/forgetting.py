"""Forgetting: how much worse a model predicts plain text with what was tuned than without.

The definition is that of PEFT's MetaMathQA benchmark: the cross-entropy of Wikipedia text after training, less that of
the base model, in nats per token (https://github.com/huggingface/peft/pull/2925; since
https://github.com/huggingface/peft/pull/3419 the base model is taken without the adapter). The text is a user's file.

Decoder-only: the text is cut into windows, and each token is predicted from those before it in its window. A window
begins with the tokens that the tokenizer puts before a text, else with the last token of the window before it, so that
every token is predicted once; without such tokens the first of the text is not. Encoder-decoder: each window is cut in
half; the encoder reads the first half, and the tokens of the second are predicted after it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from prefix_jax.data import tokens
from prefix_jax.data.batching import Batch
from prefix_jax.data.tokens import Ragged
from prefix_jax.data.windows import LONGEST, Window, frame, windows
from prefix_jax.errors import UserError
from prefix_jax.models import Model, finite
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Prefix
from prefix_jax.parallel import distributed
from prefix_jax.training.loss import model_inputs, token_losses
from prefix_jax.training.progress import Progress
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState

_TOKENS_OF_A_BATCH = 4096
# Columns whose logits are held at once.
_COLUMNS = 128


class Loss(NamedTuple):
    """Loss of a text: mean negative log-likelihood of a token, in nats; of the whole text: its tokens and bytes."""

    mean: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float | None:
        """e to the loss; None where a float cannot hold it."""
        return math.exp(self.mean) if self.mean < 700 else None

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the text: comparable between tokenizers (Gao et al. 2020, The Pile, section 3.1)."""
        return self.mean / math.log(2) * self.tokens / self.bytes


def measure(opened: Session, kept: TunedState, text: str | Sequence[str]) -> dict[str, Any]:
    """Returns the losses of a text for the bare and the tuned model, on the same windows, and their difference.

    Of several texts, each has windows of its own.

    Raises:
      UserError: the text has too few tokens or one that the embedding lacks, or the model's outputs are not finite.
    """
    texts = [text] if isinstance(text, str) else list(text)
    ids, width, around = _ids(opened, texts), window_length(opened.model_config, kept), frame(opened.tokenizer)
    cut = [one for own in ids for one in windows(opened.model_config.is_encoder_decoder, own, around, width)]
    count = sum(map(len, ids))
    if not cut:
        raise UserError(f"the text for forgetting has {count} token(s); give a longer one")
    about = count, sum(len(one.encode()) for one in texts)
    bare, tuned = (
        Loss(_mean(opened, state, cut, width, f"plain text, {label}"), *about)
        for state, label in ((TunedState(), "bare model"), (kept, "tuned"))
    )
    found: dict[str, Any] = {"tokens": sum(len(one.predicted) for one in cut), "bytes": about[1], "window": width}
    for name, loss in (("bare", bare), ("tuned", tuned)):
        of = {"loss": loss.mean, "perplexity": loss.perplexity, "bits_per_byte": loss.bits_per_byte}
        found |= {f"{what}_{name}": value for what, value in of.items()}
    return {**found, "change": tuned.mean - bare.mean}


def window_length(model_config: ModelConfig, kept: TunedState) -> int:
    """Returns the length of a window: the context length without the virtual tokens, at most `LONGEST`.

    Encoder-decoder: of encoder and decoder together.

    Raises:
      UserError: the virtual tokens leave no room.
    """
    context = model_config.context_length
    if context is None:
        return LONGEST
    offset = 0 if kept.prefix is None else int(kept.prefix.position_offset)
    if model_config.is_encoder_decoder:
        room = 2 * min(context - kept.reserved, context - offset)
    else:
        room = context - kept.reserved - offset
    if room < 16:
        raise UserError(f"the virtual tokens leave {room} positions of this model's {context} for a text: too few")
    return min(room, LONGEST)


@partial(jax.jit, static_argnums=0)
def loss_of_rows(model: Model, variables: dict, prefix: Prefix | None, batch: Batch) -> Float[Array, "B"]:
    """Returns the sum of weighted token losses of each row."""
    return jnp.sum(_losses_MxB(model, variables, prefix, batch), axis=0)


@partial(jax.jit, static_argnums=0)
def losses_of_targets(model: Model, variables: dict, prefix: Prefix | None, batch: Batch) -> Float[Array, "B M"]:
    """Returns the weighted loss of each target."""
    return _losses_MxB(model, variables, prefix, batch).T


def _losses_MxB(model: Model, variables: dict, prefix: Prefix | None, batch: Batch) -> Float[Array, "M B"]:
    hidden_BxMxE = model.apply(variables, **model_inputs(batch), prefix=prefix, method="target_hidden")
    columns = jnp.moveaxis(hidden_BxMxE, 1, 0), jnp.moveaxis(batch.targets, 1, 0)
    loss = lambda x: token_losses(model.apply(variables, x[0], method="logits"), x[1])
    losses_MxB = lax.map(loss, columns, batch_size=_COLUMNS)
    return losses_MxB * batch.weights.T


def make_batch(model_config: ModelConfig, cut: Sequence[Window], rows: int, width: int, reserved: int) -> Batch:
    """Returns windows as a batch of `rows`, a window each; missing ones repeat the first.

    Args:
      reserved: places at the start of what is read that hold the virtual tokens of a prompt.
    """
    cut = [*cut, *[cut[0]] * (rows - len(cut))]
    pads = [model_config.pad_id] * reserved
    encoder = None, None, None
    if model_config.is_encoder_decoder:
        read = [[model_config.decoder_start, *one.predicted[:-1]] for one in cut]
        encoder = _padded([pads + one.given for one in cut], width // 2 + reserved)
        columns = most = width // 2
        firsts = [0] * len(cut)
    else:
        read = [pads + one.given + one.predicted[:-1] for one in cut]
        columns, most = width + reserved, width
        firsts = [reserved + len(one.given) - 1 for one in cut]
    targets, offsets, real = _padded([one.predicted for one in cut], most)
    places = np.minimum(np.array(firsts, np.int32)[:, None] + offsets, columns - 1)
    return Batch(*_padded(read, columns), places, targets, real.astype(np.float32), *encoder)


def _padded(lists: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns right-padded ids `[len(lists), width]`, their positions, and 1 where they are real."""
    ids, real = np.zeros((2, len(lists), width), np.int32)
    for row, one in enumerate(lists):
        ids[row, : len(one)], real[row, : len(one)] = one, 1
    return ids, np.broadcast_to(np.arange(width, dtype=np.int32), ids.shape), real


def _ids(opened: Session, texts: Sequence[str]) -> list[list[int]]:
    found = tokens.encoded_texts(opened.tokenizer, texts, "source")
    for ids in found:
        whole = Ragged(np.asarray(ids, np.int64), np.array([0, len(ids)]))
        opened.check_ids(whole, lambda _: "the text for forgetting")
    return found


def _mean(opened: Session, kept: TunedState, cut: Sequence[Window], width: int, label: str) -> float:
    """Returns the mean loss of the predicted tokens."""
    with Progress(len(cut), start=0, label=label) as bar:
        done = (lambda count: bar.update(count, {})) if distributed.is_primary() else None
        total = loss_sum(opened.model, kept.onto(opened.base), kept, cut, width, done)
    if not math.isfinite(total):
        raise UserError(f"the model's outputs for plain text are not finite: {finite.blame(opened.base, kept)}")
    return total / sum(len(one.predicted) for one in cut)


def loss_sum(
    model: Model,
    variables: dict,
    kept: TunedState,
    cut: Sequence[Window],
    width: int,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Returns the summed loss of the predicted tokens, in nats. `progress` is called with the windows done so far."""
    return float(losses(model, variables, kept, cut, width, progress).sum())


def losses(
    model: Model,
    variables: dict,
    kept: TunedState,
    cut: Sequence[Window],
    width: int,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Returns the loss of each window: the sum over its predicted tokens, in nats."""
    rows, found = max(1, min(len(cut), _TOKENS_OF_A_BATCH // width)), []
    for start in range(0, len(cut), rows):
        own = cut[start : start + rows]
        batch = make_batch(model.model_config, own, rows, width, kept.reserved)
        sums = distributed.fetch(loss_of_rows(model, variables, kept.prefix, batch))
        found.append(np.asarray(sums, np.float64)[: len(own)])
        if progress is not None:
            progress(start + len(own))
    return np.concatenate(found)
