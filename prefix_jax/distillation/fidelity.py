"""How near prefixes come to a teacher: divergence, agreement and loss on given answers."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prefix_jax.data.batching import Batch, PackedBatches
from prefix_jax.data.tokens import SoftTargets, TokenisedSet
from prefix_jax.models import Model
from prefix_jax.models.prefix import Prefix
from prefix_jax.training.loss import MOST_LOGITS, model_inputs, token_losses
from prefix_jax.training.session import Session

# The name of the prefix that others are compared with.
TEACHER = "teacher"


class Fidelity(NamedTuple):
    """Means over the target tokens of answers, teacher-forced.

    Attributes:
      kl: Kullback-Leibler divergence of the next-token distribution from the teacher's, in nats.
      agreement: share of tokens whose top-1 prediction is the teacher's.
      loss: -log p of the answer's token, in nats: its log perplexity.
    """

    kl: float
    agreement: float
    loss: float

    def recovery(self, bare: "Fidelity", teacher: "Fidelity") -> float:
        """Returns the share of the teacher's gain in loss over the bare model; NaN where there is no gain."""
        gain = bare.loss - teacher.loss
        return (bare.loss - self.loss) / gain if gain > 0 else float("nan")


def measure(
    session: Session, teacher: Prefix, students: Mapping[str, Prefix | None], data: TokenisedSet, rows: int = 4
) -> dict[str, Fidelity]:
    """Returns the fidelity of each student by name, and of the teacher as TEACHER; None is the bare model.

    Args:
      data: token ids of questions and answers.
      rows: of a batch; fewer where their logits would not fit.
    """
    totals: dict[str, Any] = dict.fromkeys((TEACHER, *students), np.zeros(3))
    count = 0.0
    for batch in _batches(session, data, rows):
        known = _log_probs(session.model, session.base, teacher, batch)
        for name, prefix in ((TEACHER, teacher), *students.items()):
            own = known if name == TEACHER else _log_probs(session.model, session.base, prefix, batch)
            totals[name] = totals[name] + np.asarray(_compared(known, own, batch), np.float64)
        count += float(np.sum(batch.weights))
    return {name: Fidelity(*(total / count).tolist()) for name, total in totals.items()}


def soft_targets(session: Session, teacher: Prefix, data: TokenisedSet, k: int, rows: int = 4) -> SoftTargets:
    """Returns the teacher's k likeliest tokens at each target of `data` that has a loss."""
    k = min(k, session.model_config.vocab_size)
    offsets = data.scored()[0].offsets
    ids, log_probs = np.zeros((offsets[-1], k), np.int32), np.zeros((offsets[-1], k), np.float32)
    batches = packed(session, data, rows)
    for step in range(batches.steps_per_epoch):
        batch = batches.batch_at(step)
        found = [np.asarray(part) for part in _top(session.model, session.base, teacher, batch, k)]
        records, lines = batches.records_at(step)
        for row in range(batches.shape.rows):
            # The targets of a row are those of its records, in order.
            bounds = [offsets[record : record + 2].tolist() for record in records[lines == row].tolist()]
            places = np.asarray([place for start, end in bounds for place in range(start, end)], np.int64)
            log_probs[places], ids[places] = found[0][row, : len(places)], found[1][row, : len(places)]
    return SoftTargets(ids, log_probs)


def packed(session: Session, data: TokenisedSet, rows: int) -> PackedBatches:
    """Returns batches of about `rows` records in order, whose logits fit."""
    longest = int(data.scored()[0].lengths.max()) * session.model_config.vocab_size
    return PackedBatches(data, session.layout, batch=max(1, min(rows, MOST_LOGITS // longest)), shuffle=False)


def _batches(session: Session, data: TokenisedSet, rows: int) -> Any:
    return packed(session, data, min(rows, len(data))).epoch()


@partial(jax.jit, static_argnums=0)
def _log_probs(model: Model, base: Any, prefix: Prefix | None, batch: Batch) -> Float[Array, "B M V"]:
    return jax.nn.log_softmax(model.apply(base, **model_inputs(batch), prefix=prefix))


@jax.jit
def _compared(known: Float[Array, "B M V"], own: Float[Array, "B M V"], batch: Batch) -> Float[Array, "3"]:
    """Returns the sums over targets of divergence, agreement and loss."""
    divergence = jnp.sum(jnp.exp(known) * (known - own), -1)
    agreement = jnp.argmax(known, -1) == jnp.argmax(own, -1)
    parts = jnp.stack([divergence, agreement.astype(jnp.float32), token_losses(own, batch.targets)])
    return jnp.sum(parts * batch.weights, (1, 2))


@partial(jax.jit, static_argnums=(0, 4))
def _top(model: Model, base: Any, prefix: Prefix, batch: Batch, k: int) -> tuple[Array, Array]:
    return jax.lax.top_k(_log_probs(model, base, prefix, batch), k)
