"""Metrics of plain text, from its log-likelihood: perplexity, loss and bits per byte."""

import math
import re
from collections.abc import Sequence

from prefix_jax.metrics.metric import How, Measured, Metric
from prefix_jax.metrics.rows import Row

_FORM = re.compile(r"(\S+) nats over (\d+) tokens, (\d+) bytes")


def spelled(nats: float, tokens: int, size: int) -> str:
    """Returns an output that these metrics read: the loss of a text, its predicted tokens and its UTF-8 bytes."""
    return f"{nats!r} nats over {tokens} tokens, {size} bytes"


def of_likelihoods(rows: Sequence[Row], how: How) -> Measured:
    """The mean loss of a token in nats, e to it, and bits per byte (Gao et al. 2020, section 3.1), over all texts."""
    found = Measured()
    read = [_FORM.fullmatch(row.get("likelihood", row["hypothesis"])) for row in rows]
    known = [(float(one[1]), int(one[2]), int(one[3])) for one in read if one]
    nats, tokens, size = (sum(column) for column in zip(*known, strict=True)) if known else (0.0, 1, 1)
    reason = "" if len(known) == len(rows) else "an output is not the log-likelihood of a text"
    loss = nats / tokens
    found.add("perplexity", math.exp(min(loss, 700)), reason or ("it is too large" if loss > 700 else ""))
    found.add("loss", loss, reason)
    found.add("bits_per_byte", nats / math.log(2) / size, reason)
    return found


def alone(metrics: Sequence[Metric]) -> bool:
    """Returns whether metrics need likelihoods and no texts."""
    return all(metric.function is of_likelihoods for metric in metrics)


PERPLEXITY = (
    Metric("perplexity", of_likelihoods, 3, higher_is_better=False),
    Metric("loss", of_likelihoods, 4, higher_is_better=False),
    Metric("bits_per_byte", of_likelihoods, 4, higher_is_better=False),
)
