"""Looking inside: where attention goes, what a prefix changes in the next token, and what prompts are near to."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prefix_jax.data.batching import Batch, Layout, PackedBatches
from prefix_jax.data.records import Record, pair
from prefix_jax.errors import UserError
from prefix_jax.models.injected import PROMPT
from prefix_jax.models.layers import OBSERVED
from prefix_jax.models.prefix import SITES, Prefix, site_of
from prefix_jax.training.loss import model_inputs
from prefix_jax.training.session import Session, tokenised
from prefix_jax.tuning import Kept

# Where the modules of a site leave their weights.
_PATHS = {
    False: {"decoder": ("layers", "attention")},
    True: {
        "encoder": ("encoder", "layers", "attention"),
        "decoder": ("decoder", "layers", "attention"),
        "cross": ("decoder", "layers", "cross"),
    },
}


class Findings(NamedTuple):
    """What was measured over records, on their targets as they stand in the data.

    Attributes:
      prefix_share: by site, the mean share of attention that goes to the prefix, `[layers, query heads]`; 0 in layers
        without one.
      change: the mean Kullback-Leibler divergence, in nats, of the bare model's next-token distribution from the tuned
        one's.
      changed_words: the share of target positions whose likeliest token is another one.
      tokens: how many target positions there were.
    """

    prefix_share: dict[str, np.ndarray]
    change: float
    changed_words: float
    tokens: int


def attention(opened: Session, kept: Kept | None, source: str, target: str) -> dict[str, np.ndarray]:
    """Returns the real attention of one record by site, `[layers, query heads, queries, prefix + keys]`.

    The first keys are the prefix's slots, in layers that carry one: where only some do, a site has a list of arrays,
    one for each run of layers.

    Raises:
      UserError: a text is empty.
    """
    batch = _batch(opened, kept, [pair(source, target, None, "0", 0)])
    return {site: _heads(weights)[:, 0] for site, weights in _observed(opened, kept, batch).items()}


def measure(opened: Session, kept: Kept, records: Sequence[Record]) -> Findings:
    """Measures a prefix, or whatever else a method keeps, on records; see `Findings`.

    Raises:
      UserError: there are no records.
    """
    shares: dict[str, list[tuple[np.ndarray, float]]] = {}
    change, words, count = 0.0, 0.0, 0.0
    for record in records:
        batch = _batch(opened, kept, [record])
        lengths = {site: _slots(kept.prefix, site) for site in SITES}
        for site, weights in _observed(opened, kept, batch).items():
            if lengths[site]:
                share = _heads(weights)[..., : lengths[site]].sum(-1).mean(-1)[:, 0]
                shares.setdefault(site, []).append((share, 1.0))
        divergence, other, tokens = _compared(opened, kept, batch, _batch(opened, None, [record]))
        change, words, count = change + divergence, words + other, count + tokens
    found = {site: np.mean([share for share, _ in parts], axis=0) for site, parts in shares.items()}
    return Findings(found, change / max(count, 1), words / max(count, 1), int(count))


def nearest_words(opened: Session, kept: Kept, count: int = 5) -> list[list[str]]:
    """Returns for each virtual token of a prompt the tokens whose embeddings are nearest, by the angle.

    Raises:
      UserError: there is no prompt.
    """
    if PROMPT not in kept.collections:
        raise UserError("nearest words are for prompts; a prefix's keys and values lie in no vocabulary")
    table = jnp.asarray(opened.base["params"]["embedding"]["tokens"], jnp.float32)
    table = table / jnp.maximum(jnp.linalg.norm(table, axis=-1, keepdims=True), 1e-9)
    order = jnp.argsort(kept.collections[PROMPT]["embeddings"] @ table.T, axis=-1)[:, ::-1][:, :count]
    return [[opened.tokenizer.decode([token]) for token in row] for row in np.asarray(order).tolist()]


def distances(one: Prefix, other: Prefix) -> dict[str, Float[np.ndarray, "layers"]]:
    """Returns by site how far two prefixes of one length are apart in each layer: the norm of the difference of their
    keys and values, over the mean of their norms.

    Raises:
      UserError: they have other sites or shapes.
    """
    found = {}
    for site in SITES:
        pair = site_of(one, site), site_of(other, site)
        if pair == (None, None):
            continue
        if pair[0] is None or pair[1] is None or pair[0].key.shape != pair[1].key.shape:
            raise UserError(
                f"the prefixes differ in the shape of their {site} site; compare two of one length and kind"
            )
        a, b = (np.stack([s.key, s.value], 1).reshape(len(s.key), -1) for s in pair if s is not None)
        norms = (np.linalg.norm(a, axis=1) + np.linalg.norm(b, axis=1)) / 2
        found[site] = np.linalg.norm(a - b, axis=1) / np.maximum(norms, 1e-12)
    return found


def _slots(prefix: Prefix | None, site: str) -> int:
    found = site_of(prefix, site)
    return 0 if found is None else found.key.shape[-2]


def _batch(opened: Session, kept: Kept | None, records: Sequence[Record]) -> Batch:
    """Returns records in a row of their own, without padding between them."""
    spec = opened.spec
    layout = Layout(spec.encoder_layers > 0, getattr(spec, "decoder_start_id", 0), spec.pad_id)
    data = tokenised(opened, records).reserving(0 if kept is None else kept.reserved)
    return PackedBatches(data, layout, batch=len(records), shuffle=False).batch_at(0)


def _observed(opened: Session, kept: Kept | None, batch: Batch) -> dict[str, Any]:
    """Returns each site's weights, `[layers, B, K, G, T, S]`, of the tokens that are there."""
    kept = kept or Kept()
    _, state = opened.model.apply(
        kept.onto(opened.base), **model_inputs(batch), prefix=kept.prefix, method="target_hidden", mutable=[OBSERVED]
    )
    found = {}
    for site, (*path, module) in _PATHS[opened.spec.encoder_layers > 0].items():
        tree: Mapping[str, Any] = state[OBSERVED]
        for part in path:
            tree = tree[part]
        runs = [_present(tree[start][module]["weights"], batch, site, opened) for start in sorted(tree, key=int)]
        found[site] = _joined(runs)
    return found


def _present(weights: Array, batch: Batch, site: str, opened: Session) -> Array:
    """Cuts queries and keys that are padding; prefix slots come first and stay."""
    decoder, encoder = batch.segment_ids, batch.encoder_segment_ids
    queries = encoder if site == "encoder" else decoder
    keys = decoder if encoder is None or site == "decoder" else encoder
    assert queries is not None
    slots = weights.shape[-1] - keys.shape[-1]
    there = np.concatenate([np.ones(slots, bool), np.asarray(keys[0]) > 0])
    return weights[..., np.flatnonzero(np.asarray(queries[0]) > 0), :][..., np.flatnonzero(there)]


def _joined(runs: list[Array]) -> Array:
    """Layers in one array; those without a prefix get empty slots."""
    widest = max(run.shape[-1] for run in runs)
    return jnp.concatenate([jnp.pad(run, ((0, 0),) * (run.ndim - 1) + ((widest - run.shape[-1], 0),)) for run in runs])


def _heads(weights: Array) -> np.ndarray:
    """`[layers, B, K, G, T, S]` to `[layers, B, query heads, T, S]`."""
    return np.asarray(weights).reshape(*weights.shape[:2], -1, *weights.shape[-2:])


def _compared(opened: Session, kept: Kept, tuned: Batch, bare: Batch) -> tuple[float, float, float]:
    """Returns the divergence and the number of other likeliest tokens, summed over targets, and how many there are."""
    logits = []
    for one, batch in ((kept, tuned), (Kept(), bare)):
        found = opened.model.apply(one.onto(opened.base), **model_inputs(batch), prefix=one.prefix)
        logits.append(jax.nn.log_softmax(found[np.asarray(batch.weights) > 0]))
    with_it, without = logits
    divergence = (jnp.exp(with_it) * (with_it - without)).sum()
    other = (with_it.argmax(-1) != without.argmax(-1)).sum()
    return float(divergence), float(other), float(len(with_it))
