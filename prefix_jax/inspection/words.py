"""Nearest tokens of a prompt's virtual tokens, and top next-token predictions of the tuned and the bare model."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from prefix_jax.data.records import pair
from prefix_jax.errors import UserError
from prefix_jax.inspection.measure import divergence
from prefix_jax.inspection.observe import each_alone, log_probabilities
from prefix_jax.models.adapter_layers import PROMPT
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState


class Place(NamedTuple):
    """One target token: its text, the divergence of the predictions there (nats), and the top tokens with their
    probabilities, for the tuned and the bare model.
    """

    token: str
    change: float
    tuned: tuple[tuple[str, float], ...]
    bare: tuple[tuple[str, float], ...]


def next_words(opened: Session, kept: TunedState, source: str, target: str, count: int = 3) -> list[Place]:
    """Returns the predictions of the tuned and the bare model for each token of a target.

    Raises:
      UserError: a text is empty or too long.
    """
    record = [pair(source, target, None, "0", 0)]
    (batch,), (plain,) = each_alone(opened, kept, record), each_alone(opened, None, record)
    with_it, without = log_probabilities(opened, kept, batch), log_probabilities(opened, None, plain)
    tokens = np.asarray(batch.targets)[np.asarray(batch.weights) > 0].tolist()
    changes = divergence(with_it, without).tolist()
    return [
        Place(opened.tokenizer.decode([token]), change, _likeliest(opened, a, count), _likeliest(opened, b, count))
        for token, change, a, b in zip(tokens, changes, with_it, without, strict=True)
    ]


def _likeliest(opened: Session, logs: np.ndarray, count: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(logs)[::-1][:count].tolist()
    return tuple((opened.tokenizer.decode([token]), float(np.exp(logs[token]))) for token in order)


def nearest_words(opened: Session, kept: TunedState, count: int = 5) -> list[list[str]]:
    """Returns the tokens with the nearest embeddings (by cosine) to each virtual token of a prompt.

    Raises:
      UserError: there is no prompt.
    """
    if PROMPT not in kept.collections:
        raise UserError("nearest words are for prompts; a prefix's keys and values lie in no vocabulary")
    table = jnp.asarray(opened.base["params"]["embedding"]["tokens"], jnp.float32)
    table = table / jnp.maximum(jnp.linalg.norm(table, axis=-1, keepdims=True), 1e-9)
    order = jnp.argsort(kept.collections[PROMPT]["embeddings"] @ table.T, axis=-1)[:, ::-1][:, :count]
    return [[opened.tokenizer.decode([token]) for token in row] for row in np.asarray(order).tolist()]
