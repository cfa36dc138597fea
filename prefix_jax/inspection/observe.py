"""Runs the model on records and returns what its attentions and its next-token distributions were."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from prefix_jax import inference
from prefix_jax.data.batching import Batch, Layout, PackedBatches
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError
from prefix_jax.models import Model, finite
from prefix_jax.models.layers import INTERMEDIATES
from prefix_jax.models.prefix import Prefix
from prefix_jax.training.loss import model_inputs
from prefix_jax.training.session import Session, tokenised
from prefix_jax.tuning import TunedState

# Where the modules of a site leave their weights.
_PATHS = {
    False: {"decoder": ("layers", "attention")},
    True: {
        "encoder": ("encoder", "layers", "attention"),
        "decoder": ("decoder", "layers", "attention"),
        "cross": ("decoder", "layers", "cross"),
    },
}


class Attention(NamedTuple):
    """The attention of one site to its prefix and to the text, of one record.

    Attributes:
      weights: `[layers, query heads, queries, slots + keys]`; a query's sum to 1. In layers without a prefix, its slots
        have 0.
      slots: how many of the first keys are the prefix's.
      queries: the tokens that look.
      keys: what they look at: "slot 0", "slot 1", ..., then tokens.
    """

    weights: np.ndarray
    slots: int
    queries: tuple[str, ...]
    keys: tuple[str, ...]

    def prefix_share(self) -> np.ndarray:
        """Returns how much of its attention each head gives to the prefix, the mean over queries, `[layers, heads]`."""
        return self.weights[..., : self.slots].sum(-1).mean(-1)


def attention(opened: Session, kept: TunedState | None, source: str, target: str | None = None) -> dict[str, Attention]:
    """Returns the real attention of one record, by site.

    Args:
      kept: what was tuned; None is the bare model.
      target: the text that is read after the source; None: the one that the model itself writes.

    Raises:
      UserError: a text is empty or too long.
    """
    if target is None:
        target = inference.write_texts(opened, kept, [source], progress=False)[0]
    (batch,) = each_alone(opened, kept, [pair(source, target, None, "0", 0)])
    return {
        site: _labelled(opened, kept, batch, site, weights) for site, weights in observed(opened, kept, batch).items()
    }


def each_alone(opened: Session, kept: TunedState | None, records: Sequence[Record]) -> list[Batch]:
    """Returns a batch for each record, in a row of its own; all are of one shape, so that one program serves them."""
    layout = Layout.of(opened.model_config)
    data = tokenised(opened, records).reserving(0 if kept is None else kept.reserved)
    batches = PackedBatches(data, layout, batch=1, shuffle=False)
    found = {int(batches.records_at(step)[0][0]): batches.batch_at(step) for step in range(batches.steps_per_epoch)}
    return [found[place] for place in range(len(records))]


def observed(opened: Session, kept: TunedState | None, batch: Batch) -> dict[str, np.ndarray]:
    """Returns each site's weights, `[layers, query heads, queries, slots + keys]`, of the tokens that are there."""
    kept = kept or TunedState()
    seen = _seen(opened.model, kept.onto(opened.base), kept.prefix, model_inputs(batch))
    found = {}
    for site, (*path, module) in _PATHS[opened.model_config.is_encoder_decoder].items():
        tree: Mapping[str, Any] = seen
        for part in path:
            tree = tree[part]
        runs = [_present(tree[start][module]["weights"], batch, site) for start in sorted(tree, key=int)]
        found[site] = _joined(runs)
    return found


def log_probabilities(opened: Session, kept: TunedState | None, batch: Batch) -> np.ndarray:
    """Returns the logarithms of the next token's probabilities at each target of a batch, `[targets, vocabulary]`.

    Raises:
      UserError: they are not finite.
    """
    kept = kept or TunedState()
    found = _next_tokens(opened.model, kept.onto(opened.base), kept.prefix, model_inputs(batch))
    found = np.asarray(found)[np.asarray(batch.weights) > 0]
    if np.isnan(found).any():
        raise UserError(f"the model's outputs are not finite: {finite.blame(opened.base, kept)}")
    return found


@partial(jax.jit, static_argnums=0)
def _seen(model: Model, variables: Any, prefix: Prefix | None, inputs: Any) -> Any:
    _, state = model.apply(variables, **inputs, prefix=prefix, method="target_hidden", mutable=[INTERMEDIATES])
    return state[INTERMEDIATES]


@partial(jax.jit, static_argnums=0)
def _next_tokens(model: Model, variables: Any, prefix: Prefix | None, inputs: Any) -> Any:
    return jax.nn.log_softmax(model.apply(variables, **inputs, prefix=prefix))


def _sides(batch: Batch, site: str) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Returns tokens and segment ids of a site's queries, and of its keys."""
    own, encoder = (batch.tokens, batch.segment_ids), (batch.encoder_tokens, batch.encoder_segment_ids)
    return {"decoder": (own, own), "encoder": (encoder, encoder), "cross": (own, encoder)}[site]


def _present(weights: jax.Array, batch: Batch, site: str) -> np.ndarray:
    """Cuts queries and keys that are padding, and joins the heads; prefix slots come first and stay."""
    (_, queries), (_, keys) = _sides(batch, site)
    found = np.asarray(weights)[:, 0]
    found = found.reshape(len(found), -1, *found.shape[-2:])
    slots = found.shape[-1] - keys.shape[-1]
    there = np.concatenate([np.ones(slots, bool), np.asarray(keys[0]) > 0])
    return found[:, :, np.asarray(queries[0]) > 0][..., there]


def _joined(runs: list[np.ndarray]) -> np.ndarray:
    """Layers in one array; those without a prefix get empty slots."""
    widest = max(run.shape[-1] for run in runs)
    return np.concatenate([np.pad(run, ((0, 0),) * 3 + ((widest - run.shape[-1], 0),)) for run in runs])


def _labelled(opened: Session, kept: TunedState | None, batch: Batch, site: str, weights: np.ndarray) -> Attention:
    queries, keys = (_words(opened, tokens, segments) for tokens, segments in _sides(batch, site))
    reserved = 0 if kept is None or (site == "decoder" and opened.model_config.is_encoder_decoder) else kept.reserved
    prompt = [f"prompt {n}" for n in range(reserved)]
    slots = weights.shape[-1] - len(keys)
    if site != "cross":
        queries = [*prompt, *queries[reserved:]]
    keys = [*(f"slot {n}" for n in range(slots)), *prompt, *keys[reserved:]]
    return Attention(weights, slots, tuple(queries), tuple(keys))


def _words(opened: Session, tokens: Any, segments: Any) -> list[str]:
    ids = np.asarray(tokens)[np.asarray(segments) > 0].tolist()
    return [opened.tokenizer.decode([token]).strip() or opened.tokenizer.convert_ids_to_tokens(token) for token in ids]
